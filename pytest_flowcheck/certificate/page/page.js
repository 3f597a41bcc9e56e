"use strict";
(() => {
  // Whatever comes from a certificate is set as text, never as HTML.
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const { rules, subjects, verdicts, reasons } = data;
  const few = subjects.length <= 4;
  const GLYPHS = { P: "✓", V: "✗", I: "?", H: "✗ H", C: "✗ C", L: "✗ L", N: "–", T: "n/t", E: "exp", U: "~", A: "A!", K: "K!", R: "…" };
  const LEVELS = { M: "MUST", S: "SHOULD" };
  const GRADES = { p: "proven", o: "observed" };

  function node(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "class") made.className = value;
      else if (name in made && !name.includes("-")) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  function drawn(tag, attributes = {}, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // `code` in texts of rules and of what happened; *emphasis* in what only a rule's author writes, since a subject's texts
  // may hold asterisks. No look-behind: browsers that don't know it would not even read this script.
  const prose = (text, plain = (part) => [part]) => text.split("`").flatMap((part, place, parts) => (place % 2 && parts.length % 2 ? [node("code", { textContent: part })] : plain(part)));
  const stressed = (text) => text.split(/(^|[^\w*])\*([A-Za-z](?:[^*]*[^*\s])?)\*(?![\w*])/).map((part, place) => (place % 3 === 2 ? node("em", { textContent: part }) : part));
  const authored = (text) => prose(text, stressed);

  const cellOf = (subject, rule) => subjects[subject].cells.substr(3 * rule, 3);
  function toneOf(cell) {
    const tone = verdicts[cell[0]].tone;
    return tone === "bad" && cell[1] === "S" ? "soft" : tone;
  }
  const troubled = (cell) => verdicts[cell[0]].tone !== "good" && verdicts[cell[0]].tone !== "none";

  // --- the matrix -------------------------------------------------------------------------------------------------------

  // A grid as the ARIA practices have it: one cell is in the tab order, arrows move it, Enter opens it. A button in each of ten
  // thousand cells would double the time to lay the table out.
  const table = node("table", { class: few ? "few" : "many", role: "grid", "aria-describedby": "keys" });
  table.append(node("caption", { class: "unseen", textContent: "Rules by subjects" }));
  table.style.setProperty("--subjects", subjects.length);
  table.append(node("colgroup", {}, node("col", { class: "first" }), ...subjects.map(() => node("col", {}))));
  const head = node("tr", {}, node("th", { scope: "col", textContent: "rule" }));
  for (const subject of subjects) {
    const name = node("span", { textContent: subject.label, title: `${subject.label} ${subject.version}` });
    head.append(node("th", { scope: "col" }, name));
  }
  table.append(node("thead", {}, head));

  const bodies = new Map();
  const rows = [];
  rules.forEach(([id, facet, sentence, capabilities], number) => {
    if (!bodies.has(facet)) {
      const levels = subjects.map((subject) => {
        const [status, passed, total] = subject.facets[facet] || ["not-claimed", 0, 0];
        return node("td", { textContent: status === "not-claimed" ? "–" : `${passed}/${total}` });
      });
      const body = node("tbody", {}, node("tr", { class: "facet" }, node("th", { scope: "rowgroup", textContent: facet }), ...levels));
      bodies.set(facet, { body, rows: [], claimed: subjects.some((s) => (s.facets[facet] || ["not-claimed"])[0] !== "not-claimed") });
      table.append(body);
    }
    const told = node("span", { class: "sentence" }, ...authored(sentence));
    told.title = told.textContent;
    const rule = node("th", { scope: "row" }, node("span", { class: "id", textContent: id }), told);
    for (const capability of capabilities) rule.append(node("span", { class: "tag", textContent: capability, title: "only for subjects that claim it" }));
    const row = node("tr", {}, rule);
    const cells = subjects.map((subject, column) => {
      const cell = cellOf(column, number);
      const word = verdicts[cell[0]].name;
      const made = document.createElement("td");
      made.textContent = few ? word : GLYPHS[cell[0]];
      made.className = `cell ${toneOf(cell)}${cell[2] === "o" && verdicts[cell[0]].tone !== "none" ? " observed" : ""}`;
      made.setAttribute("aria-label", `${id} on ${subject.label}: ${word}, ${LEVELS[cell[1]]}, ${GRADES[cell[2]]}`);
      made.place = [column, number];
      row.append(made);
      return made;
    });
    const entry = { row, cells, number, text: `${id} ${sentence} ${capabilities.join(" ")}`.toLowerCase() };
    rows.push(entry);
    bodies.get(facet).rows.push(entry);
    bodies.get(facet).body.append(row);
  });
  byId("matrix").append(table);

  // --- filters ----------------------------------------------------------------------------------------------------------

  const claimed = [...bodies].filter(([, { claimed }]) => claimed).map(([facet]) => facet);
  const option = (value, text) => node("option", { value, textContent: text });
  byId("facet").append(option("", claimed.length === bodies.size || !claimed.length ? "all" : "those claimed"));
  if (claimed.length && claimed.length < bodies.size) byId("facet").append(option("*", "all"));
  byId("facet").append(...[...bodies.keys()].map((facet) => option(facet, facet)));
  byId("verdict").append(option("", "all"), option("!", "not simply kept"));
  const present = new Set(subjects.flatMap((subject) => rules.map((_, number) => subject.cells[3 * number])));
  byId("verdict").append(...Object.keys(verdicts).filter((code) => present.has(code)).map((code) => option(code, verdicts[code].name)));
  const capabilities = [...new Set(rules.flatMap((rule) => rule[3]))].sort();
  byId("capability").append(option("", "all"), option("-", "none: for everybody"), ...capabilities.map((name) => option(name, name)));

  function filter() {
    const [text, facet, verdict, level, capability, grade] = ["text", "facet", "verdict", "level", "capability", "grade"].map((id) => byId(id).value);
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const picky = Boolean(verdict || level || grade);
    let shown = 0;
    for (const [name, { body, rows: within, claimed: some }] of bodies) {
      const wanted = facet === "*" || (facet ? facet === name : some || !claimed.length);
      let any = false;
      for (const { row, cells, number, text: own } of within) {
        const needs = rules[number][3];
        let good = wanted && words.every((word) => own.includes(word)) && (!capability || (capability === "-" ? !needs.length : needs.includes(capability)));
        if (good && picky) {
          good = false;
          cells.forEach((made, column) => {
            const cell = cellOf(column, number);
            const fits = (!verdict || (verdict === "!" ? troubled(cell) : verdict === cell[0])) && (!level || level === cell[1]) && (!grade || grade === cell[2]);
            made.classList.toggle("dim", !fits);
            good = good || fits;
          });
        } else if (good) {
          for (const made of cells) made.classList.remove("dim");
        }
        row.hidden = !good;
        any = any || good;
        shown += good;
      }
      body.hidden = !any;
    }
    byId("count").textContent = `${shown} of ${rules.length} rules`;
    if (!entrance || entrance.closest("tr").hidden) enter(visible()[0]?.cells[0]);
  }
  byId("filters").hidden = false;
  byId("filters").addEventListener("input", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(filter));

  // --- keys: one cell is in the tab order, arrows move it ---------------------------------------------------------------

  let entrance = null;
  function enter(cell) {
    if (entrance) entrance.tabIndex = -1;
    entrance = cell || null;
    if (entrance) entrance.tabIndex = 0;
  }
  const visible = () => rows.filter(({ row }) => !row.hidden);

  byId("matrix").addEventListener("keydown", (event) => {
    if (!event.target.place || event.metaKey || event.altKey) return;
    const [column, number] = event.target.place;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      open(column, number);
      return;
    }
    const shown = visible();
    const at = shown.findIndex((entry) => entry.number === number);
    const last = shown.length - 1;
    const move = {
      ArrowDown: [Math.min(at + 1, last), column], ArrowUp: [Math.max(at - 1, 0), column],
      ArrowRight: [at, Math.min(column + 1, subjects.length - 1)], ArrowLeft: [at, Math.max(column - 1, 0)],
      PageDown: [Math.min(at + 10, last), column], PageUp: [Math.max(at - 10, 0), column],
      Home: [event.ctrlKey ? 0 : at, 0], End: [event.ctrlKey ? last : at, subjects.length - 1],
    }[event.key];
    if (!move) return;
    event.preventDefault();
    const next = shown[move[0]].cells[move[1]];
    enter(next);
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
  byId("matrix").addEventListener("click", (event) => {
    const cell = event.target.closest("td");
    if (!cell || !cell.place) return;
    enter(cell);
    cell.focus({ preventScroll: true }); // where the focus returns to
    open(...cell.place);
  });

  // --- details ----------------------------------------------------------------------------------------------------------

  const dialog = byId("details");
  let shown = null;

  byId("overview").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const subject = Number(button.dataset.subject);
    if (button.dataset.rule) open(subject, rules.findIndex(([id]) => id === button.dataset.rule));
    else about(subject);
  });
  byId("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => { history.replaceState(null, "", location.pathname + location.search); shown = null; });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, .scroll, pre, ol")) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));

  const wrong = subjects.flatMap((_, subject) => rules.map((_rule, number) => [subject, number]).filter(([, number]) => troubled(cellOf(subject, number))));
  function step(way) {
    if (!wrong.length || !shown) return;
    const exact = wrong.findIndex(([s, r]) => s === shown[0] && r === shown[1]);
    const later = wrong.findIndex(([s, r]) => s > shown[0] || (s === shown[0] && r > shown[1]));
    const from = exact >= 0 ? exact : way > 0 ? (later < 0 ? -1 : later - 1) : later < 0 ? wrong.length : later;
    const next = wrong[(from + way + wrong.length) % wrong.length];
    open(...next);
  }

  function show(title, where, ...children) {
    byId("position").textContent = where;
    byId("told").replaceChildren(node("h2", { id: "details-title", tabIndex: -1 }, ...title), ...children.filter(Boolean));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    byId("details-title").focus({ preventScroll: true });
  }

  function about(number) {
    const subject = subjects[number];
    const rows = [...subject.facts, ["claims", Object.entries(subject.claims).map(([facet, some]) => facet + (some.length ? ` (${some.join(", ")})` : "")).join("; ") || "nothing"]];
    if (subject.unclaimed.length) rows.push(["seems to have, unclaimed", subject.unclaimed.join(", ")]);
    const body = node("tbody", {}, ...rows.map(([what, value]) => node("tr", {}, node("th", { scope: "row", textContent: what }), node("td", { textContent: value }))));
    shown = [number, -1];
    show([`${subject.label} ${subject.version}`], "", node("table", {}, body));
  }

  function section(title, ...children) {
    return node("section", {}, node("h3", { textContent: title }), ...children);
  }
  const paragraph = (text, className = "") => node("p", { class: className }, ...prose(text));
  const ruled = (text, className = "") => node("p", { class: className }, ...authored(text));

  function command(text, title) {
    const button = node("button", { type: "button", textContent: "Copy" });
    // a command breaks between its words, not at the hyphens of an option
    const words = title ? [text] : text.split(/( )/).map((word) => (word === " " ? word : node("span", { class: "unbroken", textContent: word })));
    const pre = node("pre", { class: title ? "" : "wrap", tabIndex: 0 }, ...words);
    button.setAttribute("aria-label", `Copy: ${title || "the reproducer"}`);
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        getSelection().selectAllChildren(pre);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
    });
    return node("div", { class: "command" }, pre, button);
  }

  function open(subject, number) {
    const [id, facet, sentence, needs] = rules[number];
    const who = subjects[subject];
    const cell = cellOf(subject, number);
    const told = who.details[id] || {};
    const verdict = verdicts[cell[0]];
    const title = [node("span", { class: `word ${toneOf(cell)}`, textContent: toneOf(cell) === "soft" ? `SHOULD ${verdict.name}` : verdict.name }), ` ${id} on ${who.label} ${who.version}`];
    const facts = `${LEVELS[cell[1]]}, ${facet}${needs.length ? `, for subjects that claim ${needs.join(", ")}` : ""}; evidence: ${GRADES[cell[2]]}`;
    const story = told.story;
    const at = wrong.findIndex(([s, r]) => s === subject && r === number);
    shown = [subject, number];
    history.replaceState(null, "", `#${encodeURIComponent(who.label)}/${id}`);
    show(title, at >= 0 ? `${at + 1} of ${wrong.length} not kept` : "",
      node("span", { class: "sentence" }, ...authored(sentence)),
      node("p", {}, node("small", { textContent: facts })),
      story ? section("What it did", paragraph(story.facts, "facts")) : null,
      story || !reasons[who.why[number]] ? null : section("Why", paragraph(reasons[who.why[number]])),
      told.message ? section("What was found", node("pre", { class: "wrap", tabIndex: 0, textContent: told.message })) : null,
      !told.message && !story && !reasons[who.why[number]] ? paragraph(verdict.meaning) : null,
      told.because_of ? paragraph(`It lost its precondition to ${told.because_of}.`) : null,
      told.schedule ? section("The schedule", ...schedule(told.schedule)) : null,
      told.crash ? section(told.crash.model === "power" ? "The power loss" : "The kill", ...crash(told.crash)) : null,
      told.picture ? section(told.schedule || told.crash ? "What happened around it" : "What happened, in order", ...timeline(told.picture, told.waits)) : null,
      told.notes ? section(told.crash ? "How it was looked for" : "What happened, in order", node("ol", { class: "order", tabIndex: 0 }, ...told.notes.map((text) => node("li", {}, ...prose(text))))) : null,
      told.waits ? section("Who waits for whom", ...waiting(told.waits)) : null,
      told.example ? section("The smallest scenario", ...example(told.example)) : null,
      story ? section("What was expected", ruled(story.expected, "wanted")) : null,
      story ? section("Why that is proof", ruled(story.proof)) : null,
      told.observed_because ? paragraph(`Only observed: ${told.observed_because}`) : null,
      story ? section("What usually causes it", ruled(story.cause)) : null,
      told.uncaught ? section("Errors that nobody caught", node("ul", {}, ...told.uncaught.map((text) => node("li", { textContent: text })))) : null,
      told.reproduce ? section("Reproduce", command(told.reproduce, "")) : null,
      told.script ? node("details", {}, node("summary", { textContent: "Without pytest" }), command(told.script, "the program")) : null,
    );
  }

  // --- what happened ----------------------------------------------------------------------------------------------------

  const LANE = 15, ROW = 30, TOP = 20;

  function timeline(picture, waits) {
    const count = picture.columns.length;
    const [gap, hidden] = picture.gap;
    const pids = new Set(picture.lanes.map((lane) => lane.pid).filter(Boolean));
    const names = picture.lanes.map((lane) => laneName(lane, pids.size > 1));
    // as wide as there is room for, so that names stand beside their bars; and never narrower than the name of a lane
    const wanted = Math.min(Math.max(34, (room() - 110) / (count + 1)), 96);
    const step = Math.max(wanted, (Math.max(...names.map((name) => 6 * name.length)) - 20) / count);
    const x = (column) => 8 + step * column;
    const event = (column) => column + (hidden && column > gap ? hidden : 1); // its number: the gap is one column
    const end = x(count);
    const tops = [];
    let height = TOP;
    for (const lane of picture.lanes) { tops.push(height); height += LANE + ROW * lane.rows + 4; }
    // where on the picture a waiting thread is: at its last bar; or a task that no thread runs: at its own
    const level = (bar) => tops[bar.lane] + LANE + ROW * bar.row + 20;
    const place = ({ tid, name }) => {
      const bars = picture.bars.filter((bar) => (tid ? bar.tid === tid && bar.over < 0 : bar.name === name && picture.lanes[bar.lane].kind === "queue"));
      return bars.length ? level(bars[bars.length - 1]) : undefined;
    };
    const arrows = !waits ? [] : waits.edges
      .map((edge) => ({ ...edge, source: place(waits.nodes[edge.source]), target: place(waits.nodes[edge.target]) }))
      .filter(({ source, target }) => source !== undefined && target !== undefined && source !== target);
    const width = end + 30 + (arrows.length ? 24 + 14 * arrows.length : 0);
    const svg = drawn("svg", { width, height: height + 4, viewBox: `0 0 ${width} ${height + 4}`, role: "img" });
    svg.setAttribute("aria-label", `Timeline of ${picture.bars.length} tasks and calls on ${picture.lanes.length} threads; the list below says the same in words`);

    picture.columns.forEach(([at, words, kind], column) => {
      if (kind === "gap") {
        svg.append(label(x(column) - 8, 10, `…${hidden}…`, "faint", `${hidden} events are left out here`));
        return;
      }
      svg.append(drawn("line", { class: "grid", x1: x(column), x2: x(column), y1: TOP - 4, y2: height }));
      if (kind === "note") svg.append(drawn("path", { class: "note", d: `M${x(column)} ${TOP - 8} l4 5 l-4 5 l-4 -5 z` }));
      svg.append(label(x(column) - 3, 10, String(event(column)), "faint", `${milliseconds(at)}: ${words}`));
    });

    const titles = picture.lanes.map((lane, number) => {
      svg.append(drawn("rect", { class: "lane", x: 0, y: tops[number], width: end + 22, height: LANE + ROW * lane.rows, rx: 3 }));
      return svg.appendChild(label(5, tops[number] + 11, names[number], "faint"));
    });
    for (const bar of picture.bars) bars(svg, bar, picture, x, end, tops[bar.lane] + LANE + ROW * bar.row, step);
    arrows.forEach((arrow, number) => {
      arc(svg, end + 22, arrow.source - 3, arrow.target + 3, 24 + 14 * number, arrow.circular, arrow.name);
    });
    const order = node("ol", { class: "order", tabIndex: 0 });
    picture.columns.forEach(([at, words, kind], column) => {
      const value = event(column);
      if (kind === "gap") order.append(node("li", { class: "left-out", textContent: `… ${hidden} events are left out here …` }));
      else order.append(node("li", { value }, node("time", { textContent: milliseconds(at) }), ...prose(words)));
    });
    const scroll = node("div", { class: "scroll", tabIndex: 0, role: "group", "aria-label": "Timeline" }, svg);
    scroll.addEventListener("scroll", () => titles.forEach((title) => title.setAttribute("x", 5 + scroll.scrollLeft)), { passive: true });
    return [scroll, key(picture), node("details", { open: count <= 14 }, node("summary", { textContent: "In words" }), order)];
  }

  // the width that the details have for a picture, before they are laid out
  const room = () => { const width = document.documentElement.clientWidth; return Math.max(280, Math.min(0.96 * width, 1024) - (width <= 640 ? 24 : 56)); };
  const milliseconds = (seconds) => (seconds < 10 ? `${(1000 * seconds).toFixed(1)} ms` : `${seconds.toFixed(2)} s`);

  function laneName(lane, several) {
    if (lane.kind === "queue" || lane.kind === "process") return lane.name;
    const name = lane.kind === "callers" ? "callers, each in a thread of its own" : lane.name.includes(lane.kind) ? lane.name : `${lane.kind} ${lane.name}`;
    return cut(name, 60) + (several && lane.pid ? ` · process ${lane.pid}` : "");
  }

  function label(x, y, text, className, title = "") {
    const made = drawn("text", { x, y, class: className });
    made.textContent = text;
    if (title) { const told = drawn("title"); told.textContent = title; made.append(told); }
    return made;
  }

  function bars(svg, bar, picture, x, end, y, step) {
    const group = drawn("g", { class: "task" });
    const told = drawn("title");
    told.textContent = `${bar.name}${bar.how ? `: ${bar.how}${bar.detail ? ` (${bar.detail})` : ""}` : bar.started >= 0 ? ": in flight still" : ": never started"}`;
    group.append(told);
    const stop = bar.over >= 0 ? x(bar.over) : end + 4;
    const start = bar.started >= 0 ? x(bar.started) : bar.submitted >= 0 ? stop : x(0) - 6;
    const middle = y + 20;
    if (bar.submitted >= 0) {
      group.append(drawn("line", { class: "queued", x1: x(bar.submitted), x2: start, y1: middle, y2: middle }));
      group.append(drawn("circle", { class: "mark", cx: x(bar.submitted), cy: middle, r: 3 }));
    }
    if (bar.started >= 0 || bar.submitted < 0) {
      const released = !bar.gated ? start : bar.released >= 0 && bar.started < bar.released && (bar.over < 0 || bar.released <= bar.over) ? x(bar.released) : stop;
      if (released > start) group.append(drawn("rect", { class: "gate", x: start, y: middle - 5, width: released - start, height: 10 }));
      if (stop > released) group.append(drawn("rect", { class: bar.call ? "call" : "run", x: released, y: middle - 5, width: stop - released, height: 10 }));
    }
    if (bar.over < 0) group.append(drawn("path", { class: "tip", d: `M${end + 4} ${middle - 7} l9 7 l-9 7 z` }));
    else if (bar.how === "ended" || bar.how === "returned") group.append(drawn("line", { class: "mark", x1: stop, x2: stop, y1: middle - 7, y2: middle + 7 }));
    else group.append(drawn("path", { class: "fail", d: `M${stop - 5} ${middle - 5} l10 10 m0 -10 l-10 10` }));
    const begin = bar.submitted >= 0 ? x(bar.submitted) : start;
    const beside = picture.bars.filter((other) => other !== bar && other.lane === bar.lane && other.row === bar.row)
      .map((other) => (other.submitted >= 0 ? x(other.submitted) : other.started >= 0 ? x(other.started) : Infinity))
      .filter((other) => other > begin);
    const most = Math.floor((Math.min(...beside, svg.viewBox.baseVal.width) - begin) / 6);
    const full = bar.how && !["ended", "returned"].includes(bar.how) ? `${bar.name}: ${bar.how === "failed" || bar.how === "raised" ? bar.detail || bar.how : bar.how}` : bar.name;
    group.append(label(begin, y + 11, full.length > most ? `${full.slice(0, Math.max(most - 1, 1))}…` : full, "", told.textContent));
    svg.append(group);
  }

  function arc(svg, x, from, to, reach, circular, name) {
    const kind = circular ? " circle" : "";
    svg.append(drawn("path", { class: `arrow${kind}`, d: `M${x} ${from} C${x + reach} ${from} ${x + reach} ${to} ${x + 8} ${to}` }));
    const tip = drawn("path", { class: `tip${kind}`, d: `M${x} ${to} l9 -5 l0 10 z` });
    const told = drawn("title");
    told.textContent = `waits for ${name}`;
    tip.append(told);
    svg.append(tip);
  }

  // the signs that are in the picture
  function key(picture) {
    const some = (test) => picture.bars.some(test);
    const ran = (bar) => bar.started >= 0 || bar.submitted < 0;
    const good = (bar) => bar.how === "ended" || bar.how === "returned";
    const parts = [
      ["queued", some((bar) => bar.submitted >= 0), drawn("line", { class: "queued", x1: 0, x2: 22, y1: 6, y2: 6 })],
      ["at its gate, which only the rule opens", some((bar) => bar.gated), drawn("rect", { class: "gate", x: 0, y: 1, width: 22, height: 10 })],
      ["runs", some((bar) => !bar.call && ran(bar) && (!bar.gated || bar.released >= 0)), drawn("rect", { class: "run", x: 0, y: 1, width: 22, height: 10 })],
      ["a call into the subject", some((bar) => bar.call), drawn("rect", { class: "call", x: 0, y: 1, width: 22, height: 10 })],
      ["ended", some((bar) => bar.over >= 0 && good(bar)), drawn("line", { class: "mark", x1: 11, x2: 11, y1: 0, y2: 12 })],
      ["failed, cancelled, timed out or lost", some((bar) => bar.over >= 0 && !good(bar)), drawn("path", { class: "fail", d: "M6 1 l10 10 m0 -10 l-10 10" })],
      ["something noted, see below", picture.columns.some(([, , kind]) => kind === "note"), drawn("path", { class: "note", d: "M11 1 l4 5 l-4 5 l-4 -5 z" })],
      ["not over at the end", some((bar) => bar.over < 0), drawn("path", { class: "tip", d: "M6 0 l10 6 l-10 6 z" })],
    ];
    return node("div", { class: "key", "aria-hidden": "true" }, ...parts.filter(([, there]) => there).map(([word, , shape]) => node("span", {}, drawn("svg", { width: 22, height: 12 }, shape), word)));
  }

  function waiting(graph) {
    const reach = 40 + 14 * graph.edges.length, width = Math.max(240, Math.min(room() - reach - 20, 720)), wide = width + reach + 20;
    const made = [];
    if (graph.edges.length) {
      const told = graph.nodes.map((one) => ({ name: cut(one.name, Math.floor((width - 20) / 6.4)), lines: wrapped(one.says.replace(/^thread '.*?' (?=waits|is|feeds)/, ""), Math.floor((width - 20) / 5.9), 5) }));
      let height = 4;
      const tops = told.map(({ lines }) => { const top = height; height += 20 + 14 * lines.length + 14; return top; });
      const sizes = told.map(({ lines }) => 20 + 14 * lines.length);
      const svg = drawn("svg", { width: wide, height, viewBox: `0 0 ${wide} ${height}`, role: "img", "aria-label": graph.edges.map((edge) => `${graph.nodes[edge.source].name} waits for ${graph.nodes[edge.target].name}`).join("; ") });
      const circle = new Set(graph.edges.filter((edge) => edge.circular).flatMap((edge) => [edge.source, edge.target]));
      graph.nodes.forEach((one, number) => {
        const y = tops[number];
        svg.append(drawn("rect", { class: `box${circle.has(number) ? " circle" : ""}`, x: 2, y, width, height: sizes[number], rx: 5 }));
        svg.append(label(10, y + 14, told[number].name, circle.has(number) ? "red" : "", one.name));
        told[number].lines.forEach((line, place) => svg.append(label(10, y + 28 + 14 * place, line, "faint", one.says)));
      });
      graph.edges.forEach((edge, number) => {
        const level = (index) => tops[index] + sizes[index] / 2;
        arc(svg, width + 2, level(edge.source) - 5, level(edge.target) + 5, 30 + 14 * number, edge.circular, edge.name);
      });
      made.push(node("div", { class: "scroll", tabIndex: 0, role: "group", "aria-label": "Who waits for whom" }, svg));
      if (circle.size) made.push(paragraph("Red: a circle. Each waits for the next, so none can ever go on."));
    }
    const lines = new Map();
    for (const one of graph.nodes) if (one.says) lines.set(one.says, (lines.get(one.says) || 0) + 1);
    const list = node("ul", {}, ...[...lines].map(([line, times]) => node("li", {}, ...prose(times > 1 ? `${line} (${times} times)` : line))));
    if (graph.others) list.append(node("li", { textContent: `and ${graph.others} more that wait, for none of these` }));
    made.push(graph.edges.length ? node("details", {}, node("summary", { textContent: "In words" }), list) : list);
    return made;
  }

  // lines of at most so many characters, broken at blanks where there are any
  function wrapped(text, most, lines) {
    const made = [];
    let rest = text;
    while (rest.length > most && made.length < lines - 1) {
      const at = rest.lastIndexOf(" ", most);
      const end = at > most / 2 ? at : most;
      made.push(rest.slice(0, end));
      rest = rest.slice(end).trimStart();
    }
    if (rest) made.push(cut(rest, most));
    return made;
  }

  const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

  function schedule(told) {
    const pre = node("pre", { class: "source", tabIndex: 0 });
    for (const [line, text] of told.source) {
      const parked = line === told.line;
      pre.append(node("span", { class: parked ? "parked" : "", textContent: `${parked ? "▶" : " "} ${String(line).padStart(5)}  ${text}${parked ? "" : "\n"}` }));
    }
    const who = told.parked ? `the subject's ${told.parked}, during ${told.leader},` : told.leader;
    const steps = told.key
      ? [`${who} was parked before ${told.place}`, told.blocked ? `meanwhile ${told.other} began, and was blocked` : `meanwhile ${told.other} ${told.ends[told.other]}`, `then ${told.leader} ${told.ends[told.leader]}`]
      : told.beside
      ? [`${told.leader} waited for something, and ${told.other} began`, `then ${told.leader} ${told.ends[told.leader]}`, `and ${told.other} ${told.ends[told.other]}`]
      : [`${told.leader} ${told.ends[told.leader]}`, `then ${told.other} ${told.ends[told.other]}`];
    if (told.blocked && !told.beside) steps.push(`and ${told.other} ${told.ends[told.other]}`);
    return [told.source.length ? pre : null, node("ol", {}, ...steps.map((text) => node("li", {}, ...prose(text)))), told.key ? node("p", {}, node("small", { textContent: `key: ${told.key}` })) : null].filter(Boolean);
  }

  function crash(told) {
    const done = told.story.filter((line) => /^\d+\. /.test(line)), lost = told.story.filter((line) => !/^\d+\. /.test(line));
    const files = node("table", {}, node("thead", {}, node("tr", {}, ...["file", "bytes", "begins with"].map((textContent) => node("th", { scope: "col", textContent })))),
      node("tbody", {}, ...told.files.map((file) => node("tr", {}, node("th", { scope: "row", textContent: file.path }), node("td", { textContent: file.size }), node("td", {}, node("code", { textContent: file.head || (file.size ? "" : "(empty)") }))))));
    return [
      node("ol", { class: "mono" }, ...done.map((line) => node("li", { textContent: line.replace(/^\d+\. /, "") }))),
      ...lost.flatMap((line, place) => [place === 1 && told.model === "power" && /^(data of|folder) /.test(line) ? paragraph("on the disk by then:") : null, paragraph(line.trim(), "lost mono")]).filter(Boolean),
      node("h3", { textContent: "What it left in the folder" }), node("div", { class: "scroll files", tabIndex: 0, role: "group", "aria-label": "Files" }, files),
    ];
  }

  function example(told) {
    const cells = (tag) => (row) => node("tr", {}, ...row.map((textContent) => node(tag, { textContent })));
    if (!told.head.length) {
      return told.rows.length === 1 && !told.before.length ? [paragraph(told.rows[0][0])] : [...told.before.map((line) => paragraph(line)), node("ol", { class: "mono" }, ...told.rows.map(([textContent]) => node("li", { textContent })))];
    }
    const head = node("tr", {}, ...told.head.map((textContent) => node("th", { scope: "col", textContent })));
    const table = node("table", {}, node("thead", {}, head), node("tbody", {}, ...told.rows.map(cells("td"))));
    return [...told.before.map((line) => paragraph(line)), node("div", { class: "scroll", tabIndex: 0, role: "group", "aria-label": "Scenario" }, table)];
  }

  // --- begin ------------------------------------------------------------------------------------------------------------

  for (const [code, { name, meaning, tone }] of Object.entries(verdicts)) {
    byId("legend").querySelector("dl").append(node("dt", {}, node("span", { class: tone, textContent: few ? name : `${GLYPHS[code]} ${name}` })), node("dd", { textContent: meaning }));
  }
  byId("legend").querySelector("dl").append(node("dt", {}, node("span", { class: "soft", textContent: "SHOULD" })), node("dd", { textContent: "a recommendation that is not kept: no failure" }),
    node("dt", {}, node("span", { class: "cell observed", textContent: "dotted" })), node("dd", { textContent: "only observed: no proof was possible here, or none was needed" }));

  filter();
  function follow() {
    const [label, id] = location.hash.slice(1).split("/");
    const subject = subjects.findIndex((one) => encodeURIComponent(one.label) === label);
    const number = rules.findIndex((rule) => rule[0] === id);
    if (subject >= 0 && number >= 0) open(subject, number);
  }
  addEventListener("hashchange", follow);
  follow();
})();
