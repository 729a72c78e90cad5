// One device on the page: the screen of a small medication app on top of a nudge client.

import { refill, session, toggle } from "./backend.js";
import { Client } from "./client.js";
import { count, fill, painted, setTexts, size } from "./dom.js";
import { Rows } from "./rows.js";

const INTAKES = "public.intakes";
const MEDICATIONS = "public.medications";

const states = {
  offline: "Offline",
  connecting: "Connecting",
  waiting: "Waiting to reconnect",
  online: "Connected",
  stopped: "Stopped",
};

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

export class Device {
  #kind;
  #lane;
  #id;
  #root;
  #rows;
  #client;
  #token = "";
  #seen = { nudges: 0, pulls: 0, bytes: 0 };
  #own = null; // facts of the own write under way: {bytes, ms}
  #items = new Map(); // row id → its element

  constructor({ kind, lane, user, id, root }) {
    this.#kind = kind;
    this.#lane = lane;
    this.#id = id;
    this.#root = root;
    this.#rows = new Rows(localStorage, `nudge.demo.${user}.${kind}`);
    const socket = new URL("/v1/socket", location.href);
    socket.protocol = socket.protocol.replace("http", "ws");
    this.#client = new Client({
      url: socket.href,
      device: id,
      rows: this.#rows,
      token: async () => (this.#token = (await session(user, id)).token),
    });
    this.#build();
    this.#listen();
  }

  /** Shows what the device holds already, and goes online. */
  start() {
    if (this.#rows.whole) this.#show();
    this.#client.connect();
  }

  // --- what the client says -----------------------------------------------------------------------

  #listen() {
    const on = (type, handler) => this.#client.addEventListener(type, ({ detail }) => handler(detail));
    on("state", (detail) => this.#state(detail));
    on("nudge", () => {
      this.#seen.nudges++;
      this.#lane.pulse(this.#kind, "down");
      this.#figures();
    });
    on("pulled", (loop) => this.#pulled(loop));
    on("failed", ({ code }) => this.#lane.add(this.#kind, "problem", `was refused: ${code}`));
    window.addEventListener("online", () => this.#client.networkReturned());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.#client.foregrounded();
    });
  }

  #state({ state, code, behind }) {
    this.#root.dataset.state = state;
    const why = code === 4504 ? "Open in another tab" : states[state];
    setTexts(this.#root, { status: why });
    const down = state === "offline" || state === "stopped";
    this.#button("link").textContent = down ? "Go online" : "Go offline";
    for (const item of this.#items.values()) this.#enable(item);
    if (state === "online" && !behind) this.#lane.add(this.#kind, "link", "is connected and up to date: nothing to pull");
    if (state === "offline") this.#lane.add(this.#kind, "link", "went offline");
    if (state === "stopped") this.#lane.add(this.#kind, "problem", `was told to stop (${code})`);
  }

  async #pulled({ why, changes, bytes }) {
    this.#seen.pulls++;
    this.#seen.bytes += bytes;
    const touched = new Set(why === "connect" || why === "reinstall" ? [] : changes.map((c) => c.key?.id));
    this.#show(touched);
    await painted();
    const ms = Math.max(0, Math.round(performance.timeOrigin + performance.now() - newest(changes)));
    if (why === "own write") {
      if (this.#own) {
        this.#own.bytes += bytes;
        if (changes.length > 0) this.#own.ms = ms;
      }
      return;
    }
    const facts = [size(bytes)];
    if (why === "nudge" && changes.length > 0) facts.push(`${ms} ms commit to screen`);
    this.#lane.add(this.#kind, why === "nudge" ? "nudge" : "pull", story(why, changes), facts);
  }

  // --- what the person does -----------------------------------------------------------------------

  #link() {
    if (this.#client.state === "offline" || this.#client.state === "stopped") this.#client.connect();
    else this.#client.disconnect();
  }

  // Writes through the app's backend, then pulls: whoever wrote is not nudged for it.
  async #write(item, table, what, send) {
    if (this.#own || this.#client.state !== "online") return;
    const own = (this.#own = { bytes: 0, ms: null });
    const nudges = this.#seen.nudges;
    item.setAttribute("aria-busy", "true");
    this.#lane.pulse(this.#kind, "up");
    try {
      const written = await send();
      const since = Date.parse(written.updated_at);
      await this.#client.wrote();
      const came = this.#rows.whole &&
        this.#rows.of(table).some((row) => row.id === written.id && Date.parse(row.updated_at) >= since);
      await painted();
      const nudged = this.#seen.nudges !== nudges;
      const facts = own.bytes ? [size(own.bytes)] : [];
      if (own.ms !== null) facts.push(`${own.ms} ms commit to screen`);
      let end = "Accepted; the next pull brings it.";
      if (came) end = nudged ? "Nudged meanwhile for another change." : "Not nudged: it wrote it itself.";
      this.#lane.add(this.#kind, "own", `${what}. ${end}`, facts);
    } catch (error) {
      this.#lane.add(this.#kind, "problem", `could not write: ${error.message}`);
    } finally {
      this.#own = null;
      item.removeAttribute("aria-busy");
    }
  }

  // --- the screen ---------------------------------------------------------------------------------

  #build() {
    this.#root.append(fill(document.getElementById("device"), { name: this.#root.getAttribute("aria-label") }));
    this.#root.querySelector("use").setAttribute("href", `#i-${this.#kind}`);
    this.#root.dataset.state = "offline";
    this.#button("link").addEventListener("click", () => this.#link());
    this.#button("reinstall").addEventListener("click", () => this.#client.reinstall());
    this.#figures();
  }

  // Only ever called when the rows are whole.
  #show(touched = new Set()) {
    const medications = new Map(this.#rows.of(MEDICATIONS).map((m) => [m.id, m]));
    const intakes = latestDay(this.#rows.of(INTAKES));
    this.#list("intakes", intakes, touched, (intake) => this.#intake(intake, medications));
    const cabinet = [...medications.values()].sort((a, b) => a.name.localeCompare(b.name));
    this.#list("medications", cabinet, touched, (medication) => this.#medication(medication));

    const taken = intakes.filter((i) => i.taken_at).length;
    setTexts(this.#root, { progress: intakes.length ? `${taken} of ${intakes.length} taken` : "Nothing planned" });
    this.#root.querySelector("[data-meter]").style.setProperty("--part", intakes.length ? taken / intakes.length : 0);
    this.#figures();
  }

  #intake(intake, medications) {
    const { name = "Unknown", dose = "", color = "" } = medications.get(intake.medication_id) ?? {};
    const taken = Boolean(intake.taken_at);
    const item = this.#item(intake.id, "intake", (it) => {
      const button = it.querySelector("button");
      button.addEventListener("click", () => {
        const verb = it.dataset.taken === "true" ? "Took back" : "Ticked off";
        this.#write(button, INTAKES, `${verb.toLowerCase()} ${it.dataset.name}`,
          () => toggle(this.#token, this.#id, intake.id));
      });
    });
    const due = clock.format(new Date(intake.due_at));
    setTexts(item, { name, dose, when: due });
    Object.assign(item.dataset, { taken, color, name });
    const button = item.querySelector("button");
    button.setAttribute("aria-pressed", taken);
    button.setAttribute("aria-label", `${name} ${dose}, due ${due}, ${taken ? "taken" : "not taken"}`);
    return item;
  }

  #medication(medication) {
    const item = this.#item(medication.id, "medication", (it) => {
      const button = it.querySelector("button");
      button.addEventListener("click", () => this.#write(button, MEDICATIONS, `refilled ${it.dataset.name}`,
        () => refill(this.#token, this.#id, medication.id)));
    });
    setTexts(item, { name: medication.name, stock: `${medication.stock} left` });
    Object.assign(item.dataset, { color: medication.color, name: medication.name, stock: medication.stock });
    item.querySelector("button").setAttribute("aria-label", `Refill ${medication.name}`);
    return item;
  }

  // Elements are kept over updates, so that focus stays where it is.
  #item(id, template, wire) {
    let item = this.#items.get(id);
    if (!item) {
      item = document.getElementById(template).content.firstElementChild.cloneNode(true);
      item.dataset.id = id;
      wire(item);
      this.#items.set(id, item);
    }
    this.#enable(item);
    return item;
  }

  #enable(item) {
    item.querySelector("button").disabled = this.#client.state !== "online";
  }

  #list(name, rows, touched, render) {
    const list = this.#root.querySelector(`[data-list="${name}"]`);
    const items = rows.map(render);
    items.forEach((item, i) => {
      if (list.children[i] !== item) list.insertBefore(item, list.children[i] ?? null);
    });
    while (list.children.length > items.length) {
      this.#items.delete(list.lastChild.dataset.id);
      list.lastChild.remove();
    }
    for (const item of items) {
      if (!touched.has(item.dataset.id)) continue;
      item.classList.remove("fresh");
      void item.offsetWidth; // so that the same animation starts again
      item.classList.add("fresh");
    }
  }

  #figures() {
    const { nudges, pulls, bytes } = this.#seen;
    setTexts(this.#root, { nudges, pulls, bytes: size(bytes) });
    Object.assign(this.#root.dataset, { nudges, pulls });
  }

  #button(name) {
    return this.#root.querySelector(`[data-do="${name}"]`);
  }
}

// The intakes of the newest day that has any: today's, unless the database slept over midnight.
function latestDay(intakes) {
  const day = (intake) => new Date(intake.due_at).toDateString();
  const sorted = intakes.sort((a, b) => Date.parse(a.due_at) - Date.parse(b.due_at));
  return sorted.length ? sorted.filter((i) => day(i) === day(sorted.at(-1))) : [];
}

function newest(changes) {
  return Math.max(...changes.map((c) => Date.parse(c.row?.updated_at ?? 0)));
}

function story(why, changes) {
  const reset = changes.find((c) => c.op === "reset");
  const rows = changes.filter((c) => c.op !== "reset" && c.op !== "sweep").length;
  if (reset) return `pulled everything: ${count(rows, "row")} (${reset.reason})`;
  const got = rows ? `pulled ${count(rows, "change")}` : "pulled, nothing new";
  if (why === "nudge") return `was nudged and ${got}`;
  if (why === "connect") return `came back and ${got}`;
  return got;
}
