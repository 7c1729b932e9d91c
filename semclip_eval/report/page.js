// What the page itself can do: dark or light, and tables that sort by any column. No dependencies, nothing is fetched.
"use strict";

(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");

  // A browser may forbid a page from disk to store anything; then the choice lasts as long as the page.
  const stored = {
    get: () => { try { return window.localStorage.getItem("semclip-eval-theme"); } catch { return null; } },
    set: (value) => { try { window.localStorage.setItem("semclip-eval-theme", value); } catch { /* lasts for now */ } },
  };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : wantsDark.matches);
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };

  const earlier = stored.get();
  if (earlier === "dark" || earlier === "light") root.dataset.theme = earlier;
  button.hidden = false;
  label();
  wantsDark.addEventListener("change", label);
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    stored.set(root.dataset.theme);
    label();
  });
})();

(() => {
  // The first thing that a cell shows; an interval or a note stands beside it.
  const shown = (row, column) => {
    const cell = row.cells[column];
    return ((cell.querySelector("bdi") || cell).textContent || "").trim();
  };
  // A dash, a word: not a number, sorted last whichever way.
  const number = (text) => {
    const value = Number.parseFloat(text.replace("−", "-").replace("<", "").replace(",", ""));
    return Number.isNaN(value) ? null : value;
  };

  const compare = (left, right, numeric) => {
    if (!numeric) return left.localeCompare(right, "en", { numeric: true });
    return number(left) - number(right);
  };

  function sortable(table) {
    const body = table.tBodies[0];
    const headers = [...table.tHead.rows[0].cells];
    const original = [...body.rows];
    if (original.length < 2) return;
    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        const numeric = header.classList.contains("number");
        // Numbers from the largest, words from the first; then the other way; then as the report had them.
        const ways = numeric ? ["descending", "ascending", null] : ["ascending", "descending", null];
        const way = ways[(ways.indexOf(header.getAttribute("aria-sort")) + 1) % ways.length];
        for (const other of headers) other.removeAttribute("aria-sort");
        const rows = [...original];
        if (way) {
          header.setAttribute("aria-sort", way);
          const missing = (row) => numeric && number(shown(row, column)) === null;
          const known = rows.filter((row) => !missing(row));
          known.sort((a, b) => {
            const order = compare(shown(a, column), shown(b, column), numeric);
            return way === "ascending" ? order : -order;
          });
          rows.splice(0, rows.length, ...known, ...rows.filter(missing));
        }
        body.append(...rows);
      });
    });
  }

  document.querySelectorAll("main table:not(.answers)").forEach(sortable);
})();
