// One device on the page that holds a socket: the screen of a small medication app on top of a nudge client.

import { refill, session, toggle } from "./backend.js";
import { Client } from "./client.js";
import { painted, setTexts, size } from "./dom.js";
import { Rows } from "./rows.js";
import { age, brought, INTAKES, MEDICATIONS, Screen } from "./screen.js";

const states = {
  offline: "Offline",
  connecting: "Connecting",
  waiting: "Waiting to reconnect",
  online: "Connected",
  stopped: "Stopped",
};

export class Device {
  #kind;
  #lane;
  #id;
  #root;
  #screen;
  #rows;
  #client;
  #token = "";
  #seen = { nudges: 0, pulls: 0, bytes: 0 };
  #own = null; // facts of the own write under way: {bytes, ms}

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
    this.#screen = new Screen(root, {
      icon: kind,
      heard: "Nudges",
      tick: (button, item) => {
        const verb = item.dataset.taken === "true" ? "took back" : "ticked off";
        this.#write(button, INTAKES, `${verb} ${item.dataset.name}`, () => toggle(this.#token, id, item.dataset.id));
      },
      refill: (button, item) => this.#write(button, MEDICATIONS, `refilled ${item.dataset.name}`,
        () => refill(this.#token, id, item.dataset.id)),
    });
    this.#screen.button("link").addEventListener("click", () => this.#link());
    this.#screen.button("reinstall").addEventListener("click", () => this.#client.reinstall());
    this.#listen();
  }

  /** Shows what the device holds already, and goes online. */
  start() {
    if (this.#rows.whole) this.#screen.show(this.#rows);
    this.#client.connect();
  }

  // --- what the client says -----------------------------------------------------------------------

  #listen() {
    const on = (type, handler) => this.#client.addEventListener(type, ({ detail }) => handler(detail));
    on("state", (detail) => this.#state(detail));
    on("nudge", () => {
      this.#seen.nudges++;
      this.#lane.pulse(this.#kind, "down");
      this.#screen.figures(this.#seen);
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
    this.#screen.button("link").textContent = down ? "Go online" : "Go offline";
    this.#screen.enable(state === "online");
    if (state === "online" && !behind) this.#lane.add(this.#kind, "link", "is connected and up to date: nothing to pull");
    if (state === "offline") this.#lane.add(this.#kind, "link", "went offline");
    if (state === "stopped") this.#lane.add(this.#kind, "problem", `was told to stop (${code})`);
  }

  async #pulled({ why, changes, bytes }) {
    this.#seen.pulls++;
    this.#seen.bytes += bytes;
    const touched = new Set(why === "connect" || why === "reinstall" ? [] : changes.map((c) => c.key?.id));
    this.#screen.show(this.#rows, touched);
    this.#screen.figures(this.#seen);
    await painted();
    const ms = age(changes);
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
}

function story(why, changes) {
  const got = brought(changes);
  if (changes.some((c) => c.op === "reset")) return got;
  if (why === "nudge") return `was nudged and ${got}`;
  if (why === "connect") return `came back and ${got}`;
  return got;
}
