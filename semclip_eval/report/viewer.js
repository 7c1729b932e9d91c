// The question viewer: filters over the embedded data, and the visible page of questions (drawing.js draws them).
// The data's keys are those of viewer.py.
"use strict";

(() => {
  const source = document.getElementById("question-data");
  if (!source) return;
  const { sections, boxes, pictures, grids } = JSON.parse(source.textContent);
  const { picture, strip } = drawingOf(boxes, pictures, grids);
  const PER_PAGE = 10;
  const $ = (id) => document.getElementById(id);
  const controls = {
    c: $("viewer-comparison"), run: $("viewer-run"), outcome: $("viewer-outcome"), category: $("viewer-category"),
    find: $("viewer-find"), draw: $("viewer-draw"),
  };
  const state = { c: "", run: "", outcome: "", category: "", find: "", draw: "", page: 1, q: "" };
  // Which run's views a card draws, where the reader chose one: question -> index of the run.
  let drawn = new Map();

  // ------------------------------------------------------------------ which questions

  const section = () => sections.find((one) => String(one.number) === state.c) || sections[0];

  function verdict(answer) {
    if (!answer) return "not asked";
    if (answer.status === "error") return "error";
    if (answer.status === "unparsed") return "unparsed";
    if (answer.score === undefined) return "not scored";
    return answer.score >= 1 ? "right" : answer.score <= 0 ? "wrong" : `${Math.round(100 * answer.score)} %`;
  }

  // Does the answer of one run fit the outcome? `others` are what it may differ from.
  function fits(answer, outcome, others) {
    if (!answer) return false;
    const scored = answer.status !== "error" && answer.score !== undefined;
    const against = others.filter((other) => other && other.status !== "error" && other.score !== undefined);
    switch (outcome) {
      case "right": return scored && answer.score >= 1;
      case "wrong": return scored && answer.score < 1;
      case "differs": return scored && against.some((other) => other.score !== answer.score);
      case "better": return scored && against.some((other) => answer.score > other.score);
      case "worse": return scored && against.some((other) => answer.score < other.score);
      case "missed": return answer.coverage !== undefined && answer.coverage < 0.5;
      default: return answer.status === outcome;
    }
  }

  function matches(question, own) {
    if (state.category && question.category !== state.category) return false;
    if (state.outcome || state.run) {
      const run = state.run === "" ? -1 : own.runs.findIndex((one) => one.id === state.run);
      const indices = run >= 0 ? [run] : question.answers.keys();
      let fit = false;
      for (const index of indices) {
        const others = own.reference === undefined
          ? question.answers.filter((_, other) => other !== index)
          : [question.answers[own.reference]];
        fit ||= state.outcome ? fits(question.answers[index], state.outcome, others) : Boolean(question.answers[index]);
      }
      if (!fit) return false;
    }
    const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return true;
    question.words ||= [question.id, question.text, question.category, ...(question.options || []),
      String(question.truth), ...question.answers.map((answer) => (answer && answer.answer) || "")]
      .join("\n").toLowerCase();
    return words.every((word) => question.words.includes(word));
  }

  function chosen() {
    const own = section();
    if (state.q) return own.questions.filter((question) => question.id === state.q);
    return own.questions.filter((question) => matches(question, own));
  }

  // ------------------------------------------------------------------ cards

  const link = (question) => {
    const place = new URLSearchParams(sections.length > 1 ? { c: section().number, q: question.id } : { q: question.id });
    return `#${place}`;
  };

  function answerTable(question, own, selected, select) {
    const options = question.options || [];
    const losses = question.answers.some((answer) => answer && answer.losses);
    const some = (key) => question.answers.some((answer) => answer && answer[key] !== undefined);
    const [covered, spent] = [some("coverage"), some("forwards")];
    const number = (value, tail = "") => el("td", { class: "number" }, value === undefined ? "–" : score(value) + tail);
    return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Answers to question ${question.id}` },
      el("table", { class: "answers" },
        el("thead", null, el("tr", null, el("th", { scope: "col" }, "selector"), el("th", { scope: "col" }, "answer"),
          losses ? options.map((_, index) => el("th", { scope: "col", class: "number" },
            el("span", { class: "off" }, "loss of "), own.letters[index])) : [],
          el("th", { scope: "col", class: "number" }, "tokens"),
          spent ? el("th", { scope: "col", class: "number" }, "forwards") : null,
          covered ? el("th", { scope: "col", class: "number" }, "target covered") : null)),
        el("tbody", null, question.answers.map((answer, index) => {
          const run = own.runs[index], told = verdict(answer);
          const button = el("button", { type: "button", class: "pick", "aria-pressed": String(index === selected) },
            swatch(run), bdi(run.name));
          button.addEventListener("click", () => select(index));
          const text = !answer ? "" : answer.error || (answer.answer !== undefined ? `“${answer.answer}”` : answer.letter || "");
          const tokens = answer && answer.encoded ? ` of ${answer.encoded}` : "";
          return el("tr", null, el("th", { scope: "row" }, button),
            el("td", { class: told === "right" || told === "wrong" ? told : "other" }, bdi(text), " ", told,
              answer && answer.reason ? ` (${answer.reason})` : ""),
            losses ? options.map((_, option) => el("td",
              { class: answer && answer.choice === option ? "number chosen" : "number" },
              answer && answer.losses && answer.losses[option] !== undefined ? answer.losses[option].toFixed(3) : "–")) : [],
            number(answer ? answer.tokens : undefined, tokens),
            spent ? number(answer ? answer.forwards ?? 0 : undefined) : null,
            covered ? number(answer && answer.coverage !== undefined ? Math.round(100 * answer.coverage) : undefined,
              answer && answer.coverage !== undefined ? " %" : "") : null);
        }))));
  }

  function prompt(question, own, selected) {
    if (!own.prompts) return null;
    const text = question.prompt ?? question.text;
    const answer = question.answers[selected], chat = own.chat;
    const views = answer && answer.views ? answer.views.length : 0;
    const whole = chat && views ? chat.before + chat.image.repeat(views) + chat.lead + text + chat.after : text;
    const heading = chat && views
      ? "Prompt as sent, one placeholder a view" : "Prompt as asked; the chat template is not known here";
    return el("details", null, el("summary", null, heading), el("pre", { tabindex: "0" }, whole));
  }

  function card(question) {
    const own = section();
    const article = el("article", { class: "card", tabindex: "-1" });
    const wished = own.runs.findIndex((run) => run.id === state.run);
    const draw = () => {
      let selected = drawn.get(question) ?? (wished >= 0 ? wished : own.focus);
      if (!question.answers[selected]) selected = question.answers.findIndex(Boolean);
      const run = own.runs[selected], answer = question.answers[selected];
      const options = question.options || [];
      article.replaceChildren(picture(question, answer, run, state.draw), el("div", null,
        el("p", { class: "quiet" }, "question ", el("a", { href: link(question) }, bdi(question.id)), " · ", bdi(question.category)),
        el("h4", null, bdi(question.text)),
        options.length
          ? el("ul", { class: "options" }, options.map((option, index) => el("li",
            { class: index === question.truth ? "truth" : null }, el("span", { class: "letter" }, own.letters[index]), " ",
            bdi(option), " ", index === question.truth ? el("span", { class: "tag" }, "right answer") : null)))
          : el("p", null, "Right answer: ", bdi(String(question.truth ?? ""))),
        answerTable(question, own, selected, (index) => {
          drawn.set(question, index);
          draw();
          article.querySelectorAll(".pick")[index].focus();
        }),
        strip(question, answer, run), prompt(question, own, selected)));
    };
    draw();
    return article;
  }

  // ------------------------------------------------------------------ state, in the address behind `#`

  function readAddress() {
    const given = new URLSearchParams(window.location.hash.slice(1));
    const known = Object.keys(state).some((key) => given.has(key));
    if (!known) return false;
    for (const key of Object.keys(state)) state[key] = given.get(key) ?? "";
    state.page = Math.max(1, Number.parseInt(state.page, 10) || 1);
    if (state.q && !given.has("c")) {
      const home = sections.find((one) => one.questions.some((question) => question.id === state.q));
      if (home) state.c = String(home.number);
    }
    return true;
  }

  function writeAddress() {
    const kept = Object.entries(state).filter(([key, value]) => value !== "" && !(key === "page" && value === 1));
    const address = `#${new URLSearchParams(kept.length ? kept : [["page", "1"]])}`;
    try { window.history.replaceState(null, "", address); } catch { window.location.hash = address; }
  }

  function setOptions(select, entries, value) {
    select.replaceChildren(...entries.map(([key, text]) => el("option", { value: key }, text)));
    select.value = value;
    if (select.value !== value) select.value = entries[0][0];
  }

  function showControls() {
    const own = section();
    state.c = String(own.number);
    setOptions(controls.c, sections.map((one) => [String(one.number), one.title]), state.c);
    controls.c.parentElement.hidden = sections.length < 2;
    setOptions(controls.run, [["", "any"], ...own.runs.map((run) => [run.id, run.name])], state.run);
    const against = own.reference === undefined ? "another" : own.runs[own.reference].name;
    setOptions(controls.outcome, [["", "any"], ["right", "right"], ["wrong", "wrong"], ["differs", `differs from ${against}`],
      ["better", `better than ${against}`], ["worse", `worse than ${against}`], ["missed", "target missed"],
      ["unparsed", "unparsed"], ["error", "error"]], state.outcome);
    const categories = [...new Set(own.questions.map((question) => question.category))].sort();
    setOptions(controls.category, [["", "all"], ...categories.map((name) => [name, name])], state.category);
    for (const key of ["run", "outcome", "category"]) state[key] = controls[key].value;
    controls.find.value = state.find;
    controls.draw.value = state.draw;
    if (controls.draw.selectedIndex < 0) { controls.draw.value = ""; state.draw = ""; }
  }

  function pageButtons(count) {
    const pages = Math.max(1, Math.ceil(count / PER_PAGE));
    return ["Previous", "Next"].map((text, index) => {
      const target = state.page + (index ? 1 : -1);
      const button = el("button", { type: "button", disabled: target < 1 || target > pages }, text);
      button.addEventListener("click", () => {
        state.page = target;
        show();
        writeAddress();
        $("questions").scrollIntoView();
        $("viewer-count").focus({ preventScroll: true });
      });
      return button;
    });
  }

  function show() {
    showControls();
    const found = chosen();
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    state.page = Math.min(state.page, pages);
    const first = (state.page - 1) * PER_PAGE;
    const visible = found.slice(first, first + PER_PAGE);
    const all = section().questions.length;
    const text = state.q
      ? (found.length ? `Question ${state.q} of ${all}` : `There is no question ${state.q} here`)
      : found.length
        ? `Questions ${first + 1} to ${first + visible.length} of ${found.length}${found.length < all ? `, of ${all} in all` : ""}`
        : `None of ${all} questions`;
    $("viewer-count").textContent = text;
    $("viewer-clear").disabled = !(state.run || state.outcome || state.category || state.find || state.q);
    $("viewer-cards").replaceChildren(...visible.map(card));
    $("viewer-pages").replaceChildren(...(found.length > PER_PAGE ? pageButtons(found.length) : []));
  }

  // ------------------------------------------------------------------ download

  function csv() {
    const own = section();
    // Text that a spreadsheet would run stands behind an apostrophe, as in the other CSV files.
    const cell = (value) => {
      let text = value === null || value === undefined ? "" : String(value);
      if (typeof value === "string" && /^[=+\-@\t\r']/.test(text)) text = `'${text}`;
      return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const lines = [["question_id", "category", "question", "truth", "selector", "run_id", "status", "score", "answer",
      "choice", "target_coverage", "visual_tokens", "forwards"]];
    for (const question of chosen()) {
      question.answers.forEach((answer, index) => {
        if (!answer) return;
        lines.push([question.id, question.category, question.text, question.truth, own.runs[index].name,
          own.runs[index].id, answer.status ?? "ok", answer.score, answer.answer, answer.choice, answer.coverage,
          answer.tokens, answer.forwards ?? 0]);
      });
    }
    return `${lines.map((line) => line.map(cell).join(",")).join("\n")}\n`;
  }

  function download() {
    const address = URL.createObjectURL(new Blob([csv()], { type: "text/csv;charset=utf-8" }));
    const anchor = el("a", { href: address, download: "questions.csv" });
    document.body.append(anchor);
    anchor.click();
    anchor.remove();
    window.setTimeout(() => URL.revokeObjectURL(address), 10000);
  }

  // ------------------------------------------------------------------ start

  for (const one of sections) {
    one.letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ".split("");
    const most = Math.max(0, ...one.questions.map((question) => (question.options || []).length));
    for (let index = one.letters.length; index < most; index += 1) one.letters.push(String(index + 1));
  }
  for (const [key, control] of Object.entries(controls)) {
    control.addEventListener(key === "find" ? "input" : "change", () => {
      if (key === "c") Object.assign(state, { run: "", outcome: "", category: "" });
      if (key === "c" || key === "run") drawn = new Map();
      state[key] = control.value;
      if (key !== "draw") Object.assign(state, { page: 1, q: "" });
      show();
      writeAddress();
    });
  }
  $("viewer-form").addEventListener("submit", (event) => event.preventDefault());
  $("viewer-clear").addEventListener("click", () => {
    Object.assign(state, { run: "", outcome: "", category: "", find: "", page: 1, q: "" });
    drawn = new Map();
    show();
    writeAddress();
    controls.find.focus();
  });
  $("viewer-csv").addEventListener("click", download);
  window.addEventListener("hashchange", () => {
    if (!readAddress()) return;
    show();
    $("questions").scrollIntoView();
  });
  $("viewer").hidden = false;
  const linked = readAddress();
  show();
  if (linked) $("questions").scrollIntoView();
})();
