// The device without a socket: a phone in a pocket. A push wakes it, by the rules of its platform, or its person
// opens it. The phone is simulated in the backend; the app on it, which pulls and acknowledges, is here.

import { Phone, session } from "./backend.js";
import { Background } from "./background.js";
import { painted, setTexts, size } from "./dom.js";
import { Rows } from "./rows.js";
import { age, brought, Screen } from "./screen.js";
import { platforms } from "./platforms.js";

const TOKEN_KEPT_MS = 30 * 60_000; // it is good for an hour
const WORK_MS = 30_000; // what a platform gives an app that a push has woken
const AWAKE_MS = 1600; // how long the page shows it
const WHY_AFTER_MS = 1200; // acknowledgements are written once a second
const ANSWER_MS = 200;
const AGAIN_MS = 3000;

export class Pocket {
  #lane;
  #root;
  #panel;
  #name; // in storage
  #rows;
  #screen;
  #phone;
  #client;
  #platform;
  #switches = {};
  #seen = { nudges: 0, pulls: 0, bytes: 0 };
  #awake = 0; // how many things have it awake
  #asking = null; // the timer of the next question why

  constructor({ lane, user, id, root, panel }) {
    this.#lane = lane;
    this.#root = root;
    this.#panel = panel;
    this.#name = `nudge.demo.${user}.pocket`;
    this.#rows = new Rows(localStorage, this.#name);
    const token = kept(async () => (await session(user, id)).token);
    this.#phone = new Phone(token);
    this.#client = new Background({ device: id, rows: this.#rows, token });
    this.#screen = new Screen(root, { icon: "pocket", heard: "Pushes" });
    this.#platform = localStorage.getItem(`${this.#name}.platform`) ?? "ios";
    this.#wire();
    this.#paint();
  }

  /** Shows what the device holds already, registers it, and follows what its phone does. */
  async start() {
    if (this.#rows.whole && this.#rows.cursor !== null) this.#screen.show(this.#rows);
    for (;;) {
      try {
        await this.#settle();
        for (;;) await this.#follow();
      } catch (error) {
        // Another backend has no such phone; if there is none, so much the more.
        if (error.code) this.#lane.add("pocket", "problem", `is without its phone: ${error.message}`);
        await pause(AGAIN_MS);
      }
    }
  }

  /** Something was written: whether this device is behind may have changed. */
  look() {
    this.#ask(WHY_AFTER_MS);
  }

  // What an app does when it is installed: it pulls, and registers what the platform handed it.
  async #settle() {
    const phone = this.#set(await this.#phone.get(this.#platform));
    const at = JSON.parse(localStorage.getItem(`${this.#name}.log`) ?? "null");
    if (at?.run !== phone.run) this.#remember(phone.run, 0);
    if (this.#rows.cursor === null || !this.#rows.whole) await this.#pull("", "was installed and");
    await this.#client.register(phone);
    this.#ask(0);
  }

  #remember(run, since) {
    localStorage.setItem(`${this.#name}.log`, JSON.stringify({ run, since }));
  }

  // --- what the phone does ------------------------------------------------------------------------

  async #follow() {
    const { run, since } = JSON.parse(localStorage.getItem(`${this.#name}.log`));
    const news = await this.#phone.log(since);
    this.#remember(run, news.since);
    for (const entry of news.entries) this.#happened(entry);
    if (news.entries.length > 0) this.#ask(WHY_AFTER_MS);
  }

  #happened({ event, status, reason, nudge }) {
    const { service } = platforms[this.#platform];
    switch (event) {
      case "answered":
        this.#seen.nudges++;
        this.#screen.figures(this.#seen);
        this.#lane.pulse("push", "down");
        if (status === 200) this.#lane.add("pocket", "push", `is pushed to: nudge has told ${service}`);
        else this.#lane.add("pocket", "problem", `could not be pushed to: ${service} says ${reason || status}`);
        return;
      case "held":
      case "dropped": {
        const what = platforms[this.#platform][event][reason];
        // The service's answer is logged behind what it did with the push; in front of it, it reads better.
        if (what) setTimeout(() => this.#lane.add("pocket", "held", what), ANSWER_MS);
        return;
      }
      case "woken":
        this.#lane.pulse("pocket", "down");
        this.#pull(nudge, "was woken and");
    }
  }

  // Pulls, and says how it went.
  async #pull(nudge, how) {
    this.#wake(1);
    try {
      const { changes, bytes } = await this.#client.woken(nudge, AbortSignal.timeout(WORK_MS));
      this.#seen.pulls++;
      this.#seen.bytes += bytes;
      const everything = changes.some((c) => c.op === "reset");
      this.#screen.show(this.#rows, new Set(everything ? [] : changes.map((c) => c.key?.id)));
      this.#screen.figures(this.#seen);
      await painted();
      const facts = [size(bytes)];
      if (nudge && changes.length > 0) facts.push(`${age(changes)} ms commit to screen`);
      this.#lane.add("pocket", nudge ? "nudge" : "pull", `${how} ${brought(changes)}`, facts);
    } catch (error) {
      this.#lane.add("pocket", "problem", `${how} could not pull: ${error.message}`);
    } finally {
      setTimeout(() => this.#wake(-1), AWAKE_MS);
    }
  }

  #wake(by) {
    this.#awake += by;
    this.#paint();
    this.#ask(WHY_AFTER_MS);
  }

  // --- what the person does -----------------------------------------------------------------------

  #wire() {
    const on = (name, handler) => this.#panel.querySelector(`[data-do="${name}"]`).addEventListener("click", () => this.#tried(handler));
    this.#screen.button("link").hidden = true;
    this.#screen.button("reinstall").hidden = true;
    on("open", () => this.#open());
    on("quit", async () => {
      this.#set(await this.#phone.change({ force_quit: true }));
      this.#lane.add("pocket", "held", platforms[this.#platform].quit);
    });
    on("later", async () => {
      this.#set(await this.#phone.later());
      this.#lane.add("pocket", "held", "has slept for an hour: budgets are whole again");
    });
    for (const box of this.#panel.querySelectorAll("[data-switch]")) {
      box.addEventListener("change", () => this.#tried(async () => {
        this.#set(await this.#phone.change({ [box.dataset.switch]: box.checked }));
      }));
    }
    for (const radio of this.#panel.querySelectorAll("[name=platform]")) {
      radio.checked = radio.value === this.#platform;
      radio.addEventListener("change", () => this.#tried(async () => {
        this.#platform = radio.value;
        localStorage.setItem(`${this.#name}.platform`, radio.value);
        this.#lane.add("pocket", "held", `is ${platforms[radio.value].a} now, and registers its new token`);
        await this.#settle();
      }));
    }
  }

  async #tried(act) {
    try {
      await act();
    } catch (error) {
      this.#lane.add("pocket", "problem", `did not do that: ${error.message}`);
      this.#paint();
    }
    this.#ask(WHY_AFTER_MS);
  }

  // On the screen for a moment, then back into the pocket.
  async #open() {
    const { switches } = this.#set(await this.#phone.change({ open: true }));
    if (switches.offline) this.#lane.add("pocket", "pull", "was opened without a network: it shows what it has");
    else await this.#pull("", "was opened and");
    this.#set(await this.#phone.change({ open: false }));
  }

  // --- what the page shows ------------------------------------------------------------------------

  #set(phone) {
    this.#switches = phone.switches;
    this.#paint();
    return phone;
  }

  #paint() {
    const { names, switches } = platforms[this.#platform];
    const { force_quit: quit, offline } = this.#switches;
    const state = this.#awake > 0 ? "awake" : "asleep";
    this.#root.dataset.state = state;
    this.#root.dataset.quit = Boolean(quit);
    let status = "Asleep, no socket";
    if (offline) status = "Asleep, no network";
    if (quit) status = names.quit;
    if (state === "awake") status = "Awake for a moment";
    setTexts(this.#root, { name: names.device, status });
    setTexts(this.#panel, { quit: names.doQuit });
    this.#panel.querySelector("[data-do=quit]").disabled = Boolean(quit);
    for (const box of this.#panel.querySelectorAll("[data-switch]")) {
      const name = box.dataset.switch;
      box.checked = Boolean(this.#switches[name]);
      const label = box.closest("label");
      label.hidden = !switches[name];
      if (switches[name]) setTexts(label, { label: switches[name][0], then: switches[name][1] });
    }
  }

  // Asks why the device is stale, and again until it is not.
  #ask(after) {
    clearTimeout(this.#asking);
    this.#asking = setTimeout(async () => {
      const { says, stale } = await this.#phone.why().catch(() => ({ says: "", stale: true }));
      this.#panel.dataset.stale = stale;
      setTexts(this.#panel, { verdict: stale ? "Why is it stale?" : "Not stale.", says });
      if (stale && !document.hidden) this.#ask(AGAIN_MS);
    }, after);
  }
}

// Keeps what get resolves to for as long as a token is sure to be valid.
function kept(get) {
  let value = null;
  let at = 0;
  return async () => {
    if (value === null || Date.now() - at > TOKEN_KEPT_MS) {
      value = await get();
      at = Date.now();
    }
    return value;
  };
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
