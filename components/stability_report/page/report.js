// Makes the page's tables sortable and searchable and draws its curves. All that it shows is on the page without it too.
(() => {
  "use strict";

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "onclick") made.addEventListener("click", value);
      else if (value !== false && value != null) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  };

  // Sections

  const fillNavigation = () => {
    const nav = document.querySelector("nav");
    for (const section of document.querySelectorAll("main > section")) {
      nav.append(element("a", { href: `#${section.id}` }, section.querySelector("h2").textContent));
    }
  };

  // A printed page shows what was folded.
  const unfoldForPrint = () => {
    let folded = [];
    addEventListener("beforeprint", () => {
      folded = [...document.querySelectorAll("details:not([open])")];
      for (const details of folded) details.open = true;
    });
    addEventListener("afterprint", () => {
      for (const details of folded) details.open = false;
    });
  };

  // Tables

  const MOST_SHOWN = 200;
  const RANKS = { error: 0, warning: 1, unknown: 2 };

  // A cell's worth for sorting: numbers before texts, severities by their weight, unknown values last.
  const worth = (cell) => {
    const text = cell.textContent.trim();
    if (text === "–" || text === "") return [3, 0];
    if (text in RANKS) return [0, RANKS[text]];
    const number = Number(text.replace(/,/g, "").replace(/%$/, ""));
    return Number.isNaN(number) ? [2, text.toLowerCase()] : [1, number];
  };

  const compared = (a, b) => a[0] - b[0] || (a[1] < b[1] ? -1 : a[1] > b[1] ? 1 : 0);

  const equip = (table) => {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    let rows = [...body.rows];
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const name = table.closest("[aria-label]")?.getAttribute("aria-label") ?? "table";
    const search = element("input", { type: "search", placeholder: "Search", "aria-label": `Search in ${name}` });
    const count = element("output", {});
    const more = element("button", { type: "button", hidden: true }, "Show all");
    const filtered = heads.findIndex((head) => head.textContent === table.dataset.filter);
    const filter = element("select", { "aria-label": `Filter by ${table.dataset.filter}` });
    let most = MOST_SHOWN;

    const show = () => {
      const words = search.value.toLowerCase().split(/\s+/);
      let found = 0;
      for (const row of rows) {
        const isWanted = !filter.value || row.cells[filtered].textContent.trim() === filter.value;
        const isFound = isWanted && words.every((word) => texts.get(row).includes(word));
        found += isFound;
        row.hidden = !isFound || found > most;
      }
      count.textContent = found === rows.length ? `${found} rows` : `${found} of ${rows.length} rows`;
      more.hidden = found <= most;
    };

    const sort = (place, button) => {
      const isDown = heads[place].getAttribute("aria-sort") === "ascending";
      const worths = new Map(rows.map((row) => [row, worth(row.cells[place])]));
      const sign = isDown ? -1 : 1;
      const isUnknown = (row) => worths.get(row)[0] === 3;
      rows = rows.sort((a, b) =>
        isUnknown(a) || isUnknown(b) ? isUnknown(a) - isUnknown(b) : sign * compared(worths.get(a), worths.get(b)));
      for (const head of heads) head.removeAttribute("aria-sort");
      heads[place].setAttribute("aria-sort", isDown ? "descending" : "ascending");
      body.append(...rows);
      show();
      button.focus();
    };

    heads.forEach((head, place) => {
      const button = element("button", { type: "button", class: "sort" }, head.textContent);
      button.addEventListener("click", () => sort(place, button));
      head.replaceChildren(button);
    });
    search.addEventListener("input", show);
    filter.addEventListener("change", show);
    more.addEventListener("click", () => {
      most = Infinity;
      show();
    });
    if (rows.length > 5) {
      const tools = element("div", { class: "tools" }, search);
      if (filtered >= 0) {
        const kinds = [...new Set(rows.map((row) => row.cells[filtered].textContent.trim()))];
        filter.append(element("option", { value: "" }, `every ${table.dataset.filter}`));
        filter.append(...kinds.map((kind) => element("option", { value: kind }, kind)));
        tools.append(filter);
      }
      tools.append(count);
      table.closest(".scroll").before(tools);
      table.closest(".scroll").after(more);
    }
    show();
  };

  // Curves

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const PANELS = [
    { column: "loss", title: "Loss", height: 330 },
    { column: "learning_rate", title: "Learning rate", height: 130 },
    { column: "gradient_norm", title: "Gradient norm", height: 130 },
  ];
  const LINE = { loss: "loss", learning_rate: "rate", gradient_norm: "norm" };

  const short = (value) => {
    if (value == null) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(2).replace("e+", "e").replace(/\.?0+e/, "e");
    return Number(value.toPrecision(4)).toLocaleString("en-US", { maximumSignificantDigits: 4 });
  };

  class Drawing {
    constructor(data, box, select) {
      this.data = data;
      this.box = box;
      this.select = select;
      this.isLog = data.logarithmic.includes("loss");
      this.charts = [];
      const columns = data.curves.map((curve) => curve.columns);
      this.first = Math.min(...columns.map((column) => column.step[0]));
      this.last = Math.max(...columns.map((column) => column.step[column.step.length - 1]));
      const losses = columns.flatMap((column) => column.loss.filter((loss) => loss != null));
      this.canBeLog = losses.length > 0 && losses.reduce((low, loss) => Math.min(low, loss), Infinity) > 0;
      this.readout = element("p", { class: "readout" }, "Drag across the curve to zoom; a double-click shows the whole run.");
      this.panels = element("div", { class: "panels" });
      box.append(this.toolbar(), this.readout, this.panels);
      box.hidden = false;
      this.draw();
      new ResizeObserver(() => this.resize()).observe(this.panels);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
      box.addEventListener("keydown", (event) => this.onKey(event));
    }

    toolbar() {
      const button = (text, label, act) => element("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
      const scale = (isLog, text) => {
        const made = button(text, `${text} scale`, () => {
          this.isLog = isLog;
          this.draw(this.view());
        });
        made.dataset.log = isLog;
        made.disabled = isLog && !this.canBeLog;
        return made;
      };
      this.scales = [scale(false, "Linear"), scale(true, "Logarithmic")];
      return element(
        "div",
        { class: "toolbar", role: "toolbar", "aria-label": "Curve" },
        element("span", { class: "group" }, ...this.scales),
        element(
          "span",
          { class: "group" },
          button("+", "Zoom in", () => this.zoom(0.5)),
          button("−", "Zoom out", () => this.zoom(2)),
          button("◀", "Move left", () => this.move(-0.25)),
          button("▶", "Move right", () => this.move(0.25)),
          button("Whole run", "Show the whole run", () => this.show(this.first, this.last)),
        ),
      );
    }

    onKey(event) {
      const acts = { "+": () => this.zoom(0.5), "-": () => this.zoom(2), ArrowLeft: () => this.move(-0.25), ArrowRight: () => this.move(0.25), 0: () => this.show(this.first, this.last) };
      if (!(event.key in acts) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      acts[event.key]();
    }

    view() {
      const { min, max } = this.charts[0].scales.x;
      return [min, max];
    }

    zoom(factor) {
      const [low, high] = this.view();
      const center = (low + high) / 2;
      const half = Math.max(1, (factor * (high - low)) / 2);
      this.show(center - half, center + half);
    }

    move(share) {
      const [low, high] = this.view();
      const shift = Math.max(this.first - low, Math.min(this.last - high, share * (high - low)));
      this.show(low + shift, high + shift);
    }

    show(low, high) {
      const min = Math.max(this.first, low);
      const max = Math.min(this.last, high);
      this.charts[0].setScale("x", { min, max: max > min ? max : min + 1 });
    }

    showSpike(number) {
      const spike = this.data.spikes.find((one) => one.number === number);
      const margin = Math.max(20, 0.02 * (this.last - this.first), 2 * (spike.end - spike.start));
      this.show(spike.start - margin, spike.end + margin);
    }

    draw(view) {
      for (const chart of this.charts) chart.destroy();
      this.panels.replaceChildren();
      for (const button of this.scales) button.setAttribute("aria-pressed", String((button.dataset.log === "true") === this.isLog));
      const known = PANELS.filter((panel) => this.data.curves.some((curve) => curve.columns[panel.column]));
      this.charts = known.map((panel, place) => this.chart(panel, place === known.length - 1));
      if (view) this.show(...view);
    }

    // The columns of all curves on one axis of steps.
    table(panel) {
      const isLoss = panel.column === "loss";
      const isLog = isLoss ? this.isLog : this.data.logarithmic.includes(panel.column);
      const clean = (values) => (isLog ? values.map((value) => (value > 0 ? value : null)) : values);
      const tables = [];
      const series = [{}];
      this.data.curves.forEach((curve, place) => {
        const { columns } = curve;
        if (!columns[panel.column]) return;
        const stroke = this.data.curves.length > 1 ? `run${place + 1}` : LINE[panel.column];
        const table = [columns.step, clean(columns[panel.column])];
        series.push({ label: curve.name, stroke: () => color(stroke), width: 1.25, points: { show: columns.step.length < 60 } });
        if (isLoss && columns.level && this.data.curves.length === 1) {
          table.push(clean(columns.level));
          series.push({ label: "expected", stroke: () => color("level"), width: 1.75, points: { show: false } });
        }
        tables.push(table);
        if (isLoss && curve.validation && curve.validation.step.length && this.data.curves.length === 1) {
          tables.push([curve.validation.step, clean(curve.validation.loss)]);
          series.push({ label: "validation", stroke: () => color("validation"), width: 1.5, dash: [5, 4], points: { show: true, size: 6, fill: () => color("validation") } });
        }
      });
      return { series, data: uPlot.join(tables) };
    }

    chart(panel, isLast) {
      const { series, data } = this.table(panel);
      const isLoss = panel.column === "loss";
      const isLog = isLoss ? this.isLog : this.data.logarithmic.includes(panel.column);
      // Powers of ten, where the axis spans several.
      const powers = (u, ticks) => {
        const whole = ticks.map((tick) => (tick != null && Number.isInteger(Number(Math.log10(tick).toFixed(6))) ? tick : null));
        const count = whole.filter((tick) => tick != null).length;
        const each = Math.ceil(count / (isLoss ? 8 : 3));
        let seen = 0;
        return count > 1 ? whole.map((tick) => (tick != null && seen++ % each === 0 ? tick : null)) : ticks;
      };
      const box = element("div", { class: "panel-chart", role: "group", "aria-label": `${panel.title} by ${this.data.kind}` });
      box.append(element("p", { class: "panel-title", "aria-hidden": "true" }, panel.title));
      this.panels.append(box);
      const axis = { stroke: () => color("soft"), grid: { stroke: () => color("line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
      const chart = new uPlot(
        {
          width: this.panels.clientWidth,
          height: panel.height - (isLast ? 0 : 30),
          padding: [20, 24, isLast ? 0 : 6, 0],
          legend: { show: false },
          cursor: { sync: { key: "spikeguard" }, drag: { x: true, y: false }, points: { show: false } },
          scales: { x: { time: false }, y: isLog ? { distr: 3 } : { range: { min: { pad: 0.05, soft: 0, mode: 2 }, max: { pad: 0.05 } } } },
          axes: [
            { ...axis, show: isLast, size: 30, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tick.toLocaleString("en-US") : "")) },
            { ...axis, ...(isLog && { grid: { ...axis.grid, filter: powers }, filter: powers }), size: 64, space: isLoss ? 40 : 26, values: (_, ticks) => ticks.map((tick) => (tick == null ? null : short(tick))) },
          ],
          series,
          hooks: {
            drawClear: [(u) => isLoss && this.drawEpochs(u)],
            draw: [(u) => isLoss && this.drawMarks(u)],
            setScale: [(u, key) => key === "x" && this.follow(u)],
            setCursor: [(u) => isLoss && this.read(u)],
          },
        },
        data,
        box,
      );
      if (isLoss) this.addSpikes(chart);
      return chart;
    }

    follow(source) {
      if (this.isFollowing) return;
      this.isFollowing = true;
      const { min, max } = source.scales.x;
      for (const chart of this.charts) if (chart !== source) chart.setScale("x", { min, max });
      this.isFollowing = false;
    }

    drawEpochs(u) {
      if (this.data.curves.length > 1) return;
      this.stroke(u, this.data.curves[0].epochs ?? [], "epoch", u.bbox.top, u.bbox.height, 1);
    }

    drawMarks(u) {
      if (this.data.curves.length === 1) {
        const [curve] = this.data.curves;
        const height = 10 * devicePixelRatio;
        this.stroke(u, curve.guard?.step ?? [], "guard", u.bbox.top + u.bbox.height - height, height, 2);
        this.stroke(u, curve.non_finite ?? [], "bad", u.bbox.top, u.bbox.height, 2);
      }
      this.placeSpikes(u);
    }

    stroke(u, steps, name, top, height, width) {
      const { ctx } = u;
      ctx.save();
      ctx.strokeStyle = color(name);
      ctx.lineWidth = width * devicePixelRatio;
      ctx.beginPath();
      for (const step of steps) {
        if (step < u.scales.x.min || step > u.scales.x.max) continue;
        const x = Math.round(u.valToPos(step, "x", true)) + 0.5;
        ctx.moveTo(x, top);
        ctx.lineTo(x, top + height);
      }
      ctx.stroke();
      ctx.restore();
    }

    addSpikes(u) {
      this.marks = this.data.spikes.map((spike) => {
        const label = `Spike ${spike.number} at ${this.data.kind} ${spike.step.toLocaleString("en-US")}, loss ${short(spike.loss)}: show its causes`;
        const mark = element("button", { type: "button", class: "mark", "aria-label": label, title: label }, element("span", {}, this.data.spikes.length <= 40 ? String(spike.number) : ""));
        for (const kind of ["mousedown", "dblclick", "keydown"]) mark.addEventListener(kind, (event) => event.stopPropagation());
        mark.addEventListener("click", () => this.select(spike.number));
        u.over.append(mark);
        return [spike, mark];
      });
      this.placeSpikes(u);
    }

    placeSpikes(u) {
      const { x, y } = u.scales;
      for (const [spike, mark] of this.marks ?? []) {
        mark.hidden = spike.step < x.min || spike.step > x.max || spike.loss == null || (this.isLog && spike.loss <= 0);
        if (mark.hidden) continue;
        const loss = Math.min(Math.max(spike.loss, y.min), y.max);
        mark.style.left = `${u.valToPos(spike.step, "x")}px`;
        mark.style.top = `${u.valToPos(loss, "y")}px`;
      }
    }

    read(u) {
      const { idx } = u.cursor;
      if (idx == null) return;
      const step = u.data[0][idx];
      const parts = [`${this.data.kind} ${step.toLocaleString("en-US")}`];
      for (const chart of this.charts) {
        const place = chart.data[0].indexOf(step);
        chart.series.forEach((series, number) => {
          const value = number && place >= 0 ? chart.data[number][place] : null;
          if (value == null) return;
          const panel = chart === u ? "" : chart.root.parentElement.getAttribute("aria-label").split(" by ")[0].toLowerCase();
          parts.push(`${chart === u ? series.label : panel}${chart !== u && this.data.curves.length > 1 ? ` of ${series.label}` : ""} ${short(value)}`);
        });
      }
      this.readout.textContent = parts.join(" · ");
    }

    resize() {
      const width = this.panels.clientWidth;
      for (const chart of this.charts) if (width && chart.width !== width) chart.setSize({ width, height: chart.height });
    }
  }

  // Spikes

  const openSpike = (number) => {
    const details = document.getElementById(`spike-${number}`);
    if (!details) return;
    for (const other of document.querySelectorAll("details.spike")) other.open = other === details;
    details.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    details.querySelector("summary").focus({ preventScroll: true });
  };

  const drawCurves = () => {
    const source = document.getElementById("drawing");
    const box = document.getElementById("chart");
    if (!source || !box) return;
    const data = JSON.parse(source.textContent);
    if (!data.curves.some((curve) => curve.columns.loss.some((loss) => loss != null))) return;
    document.documentElement.classList.add("drawn");
    const drawing = new Drawing(data, box, openSpike);
    for (const button of document.querySelectorAll("button.show")) {
      button.hidden = false;
      button.addEventListener("click", () => {
        drawing.showSpike(Number(button.dataset.spike));
        box.scrollIntoView({ block: "nearest" });
      });
    }
  };

  const onHash = () => {
    const found = /^#spike-(\d+)$/.exec(location.hash);
    if (found) openSpike(found[1]);
  };

  fillNavigation();
  unfoldForPrint();
  for (const table of document.querySelectorAll("table[data-tools]")) equip(table);
  drawCurves();
  addEventListener("hashchange", onHash);
  onHash();
})();
