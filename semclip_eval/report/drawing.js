// Elements, and the pictures of a question: image, views, targets, map of ψ, steps of a selector, dropped tokens.
// Texts of the data only ever become text nodes and attributes, never markup. The data's keys are those of viewer.py.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
// So many boxes of a kind are a map, fewer are steps on a way.
const MAP_FROM = 9;

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const bdi = (text) => el("bdi", null, text);
const swatch = (run) => svg("svg", { class: "swatch", viewBox: "0 0 12 12", "aria-hidden": "true" },
  svg("path", { d: run.path, fill: run.hollow ? "#fff" : run.colour, stroke: run.colour }));
const score = (value) => (value === null || value === undefined ? "" : String(value).replace("-", "−"));
const three = (value) => score(value === null ? value : Number(value.toPrecision(3)));

// boxes: lists of boxes by number; pictures: base64 JPEGs by number; grids: where the tokens of a view lie, by number.
// Gives back what draws a question.
function drawingOf(boxes, pictures, grids) {
  const flat = (number) => {
    const values = boxes[number], list = [];
    for (let at = 0; at < values.length; at += 4) list.push(values.slice(at, at + 4));
    return list;
  };
  const rectangle = (box, attributes) => svg("rect",
    { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1], ...attributes });
  const image = (question) => (question.picture === undefined ? null : svg("image", {
    href: `data:image/jpeg;base64,${pictures[question.picture]}`, width: question.size[0], height: question.size[1],
    preserveAspectRatio: "none",
  }));

  // The lower the score, the darker: colours stay what they are where a selector looked. Every place between the boxes'
  // edges has the highest score of the boxes that cover it; what none covers is as dark as the lowest.
  function heatMap(list, scores) {
    const known = scores.filter((score) => score !== null);
    const low = Math.min(...known), high = Math.max(...known), spread = high - low || 1;
    const edges = (first, second) => [...new Set(list.flatMap((box) => [box[first], box[second]]))].sort((a, b) => a - b);
    const across = edges(0, 2), down = edges(1, 3);
    const group = svg("g", { class: "heat" });
    if (across.length * down.length > 10000) return group;
    for (let row = 0; row + 1 < down.length; row += 1) {
      for (let column = 0; column + 1 < across.length; column += 1) {
        const [x, y] = [across[column], down[row]];
        let best = null;
        list.forEach((box, index) => {
          const covers = box[0] <= x && x < box[2] && box[1] <= y && y < box[3];
          if (covers && scores[index] !== null && (best === null || scores[index] > best)) best = scores[index];
        });
        group.append(rectangle([x, y, across[column + 1], down[row + 1]],
          { "fill-opacity": (0.7 * (high - (best ?? low)) / spread).toFixed(3) }));
      }
    }
    return group;
  }

  // The cells of a view's visual tokens that were dropped, in pixels of the view. A view that its family shows twice (as
  // tiles and, small, as a whole) has several grids: most veiled where the tokens of both were dropped.
  function droppedCells(bits, number) {
    const values = grids[number], group = svg("g", null);
    let cell = 0;
    for (let at = 0; at < values.length; at += 8) {
      const [, rows, columns, , left, top, right, bottom] = values.slice(at, at + 8);
      const width = (right - left) / columns, height = (bottom - top) / rows;
      let path = "";
      for (let end = cell + rows * columns, place = 0; cell < end; cell += 1, place += 1) {
        if ((Number.parseInt(bits[cell >> 2], 16) >> (3 - (cell & 3))) & 1) continue;
        const x = left + width * (place % columns), y = top + height * Math.floor(place / columns);
        path += `M${x.toFixed(1)} ${y.toFixed(1)}h${width.toFixed(1)}v${height.toFixed(1)}h${(-width).toFixed(1)}z`;
      }
      group.append(svg("path", { class: "dropped", d: path }));
    }
    return group;
  }

  function label(text, box, size, kind) {
    const letter = 12.5 * size[0] / 340, width = 0.6 * letter * text.length;
    if (kind === "step") { // steps share corners with crops and with each other: at their lower right end
      const x = Math.max(0, box[2] - width - 0.3 * letter);
      return svg("text", { class: kind, x, y: box[3] - 0.4 * letter, "font-size": letter }, text);
    }
    const x = Math.max(0, Math.min(box[0] + 0.3 * letter, size[0] - width));
    const above = box[1] - 0.3 * letter;
    return svg("text", { class: kind, x, y: above > letter ? above : box[1] + 1.1 * letter, "font-size": letter }, text);
  }

  // What is drawn over the image beside crops and targets: marks for the SVG, and what they are in words.
  function overlay(answer, run, wish) {
    const trace = answer.trace || [];
    const candidates = answer.candidates;
    const show = wish || (answer.kept ? "kept" : trace.length ? "trace" : candidates ? "psi" : "none");
    if (show === "psi" && candidates) {
      const known = candidates[1].filter((value) => value !== null);
      const ends = `${three(Math.min(...known))} to ${three(Math.max(...known))}`;
      return { marks: [heatMap(flat(candidates[0]), candidates[1])], words: `dark to bright: ψ of ${known.length} candidates, ${ends}` };
    }
    if (show === "trace" && trace.length) {
      const marks = [], words = [], steps = [];
      const isMap = ([, number, scores]) => boxes[number].length >= 4 * MAP_FROM && scores.some((value) => value !== null);
      // Of several maps the finest; more than one over each other would show none.
      const finest = trace.filter(isMap).reduce((best, one) => (best && boxes[best[1]].length >= boxes[one[1]].length ? best : one), null);
      for (const group of trace) {
        const [kind, number, scores] = group;
        const list = flat(number);
        if (group === finest) {
          const known = scores.filter((value) => value !== null);
          marks.push(heatMap(list, scores));
          words.push(`dark to bright: ${kind}, ${three(Math.min(...known))} to ${three(Math.max(...known))}`);
        } else if (list.length < MAP_FROM) {
          list.forEach((box, index) => steps.push({ box, text: `${index + 1} ${three(scores[index])}` }));
          words.push(`dashed: ${kind}, ${list.length === 1 ? "1 step" : `${list.length} steps`}`);
        } else {
          words.push(`not drawn: ${kind}, ${list.length} boxes`);
        }
      }
      return { marks, steps, words: words.join("; ") };
    }
    if (show === "kept" && answer.kept) {
      const view = (answer.views || []).findIndex((one) => one.kind === "overview");
      if (view >= 0) {
        const twice = grids[answer.grids[view]].length > 8 ? ", most where those of tile and thumbnail were" : "";
        return { marks: [droppedCells(answer.kept[view], answer.grids[view])], words: `veiled: visual tokens that were dropped${twice}` };
      }
    }
    return { marks: [], words: "" };
  }

  function picture(question, answer, run, wish) {
    if (!question.size) return el("p", { class: "quiet" }, "No image: ", bdi(question.missing || "its size is not known"));
    const views = (answer && answer.views) || [];
    const crops = views.filter((view) => view.kind === "crop" || view.kind === "blank");
    const over = answer ? overlay(answer, run, wish) : { marks: [], words: "" };
    const lines = [], texts = [];
    const outline = (box, kind, text) => {
      lines.push(rectangle(box, { class: `halo ${kind}` }), rectangle(box, { class: `line ${kind}` }));
      if (text) texts.push(label(text, box, question.size, kind));
    };
    for (const step of over.steps || []) {
      lines.push(rectangle(step.box, { class: "halo step" }), rectangle(step.box, { class: "line step" }));
      if ((over.steps || []).length <= 12) texts.push(label(step.text, step.box, question.size, "step"));
    }
    crops.forEach((view, index) => {
      const name = view.kind === "blank" ? "blank" : crops.length > 1 ? String(index + 1) : "crop";
      outline(view.box, "crop", view.psi === undefined ? name : `${name} ψ ${three(view.psi)}`);
    });
    for (const view of views.filter((one) => one.kind === "collage")) {
      for (const part of view.parts || []) outline(part.slice(0, 4), "crop", "");
    }
    for (const target of question.targets || []) outline(target, "target", "");
    const told = [crops.length ? `${crops.length} crop${crops.length > 1 ? "s" : ""}` : "no crop",
      question.targets ? `${question.targets.length} target${question.targets.length > 1 ? "s" : ""}` : "no target box"];
    const drawing = svg("svg", {
      class: "picture", viewBox: `0 0 ${question.size[0]} ${question.size[1]}`, role: "img",
      style: `--crop: ${run.colour}`, "aria-label": `Question ${question.id}, views of ${run.name}: ${told.join(", ")}`,
    }, image(question) || rectangle([0, 0, ...question.size], { class: "nothing" }), ...over.marks, ...lines, ...texts);
    return el("div", null, drawing,
      question.picture === undefined && question.missing
        ? el("p", { class: "quiet" }, "No picture: ", bdi(question.missing)) : null,
      el("p", { class: "quiet drawn" }, swatch(run), bdi(run.name), over.words ? `; ${over.words}` : ""));
  }

  // The views as the model was given them, in their order.
  function strip(question, answer, run) {
    const views = (answer && answer.views) || [];
    const plain = views.every((view) => view.kind === "overview") && !(answer && answer.kept);
    if (!question.size || question.picture === undefined || plain) return null;
    return el("ul", { class: "views", "aria-label": "Views that the model was given" }, views.map((view, index) => {
      const [left, top, right, bottom] = view.box;
      let width = right - left, height = bottom - top, content = [], origin = [left, top];
      if (view.kind === "collage") {
        origin = [0, 0];
        width = Math.max(...(view.parts || []).map((part) => part[6]));
        height = Math.max(...(view.parts || []).map((part) => part[7]));
        content = (view.parts || []).map(([x0, y0, x1, y1, at, down]) => svg("svg",
          { x: at, y: down, width: x1 - x0, height: y1 - y0, viewBox: `${x0} ${y0} ${x1 - x0} ${y1 - y0}` }, image(question)));
      } else if (view.kind !== "blank") {
        content = [image(question)];
      }
      const veil = answer.kept
        ? svg("g", { transform: `translate(${origin[0]} ${origin[1]})` }, droppedCells(answer.kept[index], answer.grids[index])) : null;
      return el("li", null, svg("svg", {
        viewBox: `${origin[0]} ${origin[1]} ${width} ${height}`, "aria-hidden": "true",
        style: `aspect-ratio: ${width} / ${height}`,
      }, content, veil), el("span", null, view.kind));
    }));
  }

  return { picture, strip };
}
