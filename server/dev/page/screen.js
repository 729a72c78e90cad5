// The screen of the small medication app: what the rows of one device look like.

import { count, fill, setTexts, size } from "./dom.js";

export const INTAKES = "public.intakes";
export const MEDICATIONS = "public.medications";

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

export class Screen {
  #root;
  #taps;
  #enabled = false;
  #items = new Map(); // row id → its element

  /**
   * @param {HTMLElement} root
   * @param {object} options
   * @param {string} options.icon
   * @param {string} options.heard  what its first figure counts
   * @param {(button: HTMLElement, item: HTMLElement) => void} [options.tick]  an intake was tapped
   * @param {(button: HTMLElement, item: HTMLElement) => void} [options.refill]
   */
  constructor(root, { icon, heard, tick, refill }) {
    this.#root = root;
    this.#taps = { intake: tick, medication: refill };
    root.append(fill(document.getElementById("device"), { name: root.getAttribute("aria-label"), heard }));
    root.querySelector("use").setAttribute("href", `#i-${icon}`);
    root.dataset.state = "offline";
    this.figures({ nudges: 0, pulls: 0, bytes: 0 });
  }

  /** Whether anything can be tapped. */
  enable(enabled) {
    this.#enabled = enabled;
    for (const item of this.#items.values()) item.querySelector("button").disabled = !enabled;
  }

  /** Shows the rows, which must be whole; touched are the ids of those that just came. */
  show(rows, touched = new Set()) {
    const medications = new Map(rows.of(MEDICATIONS).map((m) => [m.id, m]));
    const intakes = latestDay(rows.of(INTAKES));
    this.#list("intakes", intakes, touched, (intake) => this.#intake(intake, medications));
    const cabinet = [...medications.values()].sort((a, b) => a.name.localeCompare(b.name));
    this.#list("medications", cabinet, touched, (medication) => this.#medication(medication));

    const taken = intakes.filter((i) => i.taken_at).length;
    setTexts(this.#root, { progress: intakes.length ? `${taken} of ${intakes.length} taken` : "Nothing planned" });
    this.#root.querySelector("[data-meter]").style.setProperty("--part", intakes.length ? taken / intakes.length : 0);
  }

  /** What the device has heard and asked so far. */
  figures({ nudges, pulls, bytes }) {
    setTexts(this.#root, { nudges, pulls, bytes: size(bytes) });
    Object.assign(this.#root.dataset, { nudges, pulls });
  }

  button(name) {
    return this.#root.querySelector(`[data-do="${name}"]`);
  }

  #intake(intake, medications) {
    const { name = "Unknown", dose = "", color = "" } = medications.get(intake.medication_id) ?? {};
    const taken = Boolean(intake.taken_at);
    const item = this.#item(intake.id, "intake");
    const due = clock.format(new Date(intake.due_at));
    setTexts(item, { name, dose, when: due });
    Object.assign(item.dataset, { taken, color, name });
    const button = item.querySelector("button");
    button.setAttribute("aria-pressed", taken);
    button.setAttribute("aria-label", `${name} ${dose}, due ${due}, ${taken ? "taken" : "not taken"}`);
    return item;
  }

  #medication(medication) {
    const item = this.#item(medication.id, "medication");
    setTexts(item, { name: medication.name, stock: `${medication.stock} left` });
    Object.assign(item.dataset, { color: medication.color, name: medication.name, stock: medication.stock });
    item.querySelector("button").setAttribute("aria-label", `Refill ${medication.name}`);
    return item;
  }

  // Elements are kept over updates, so that focus stays where it is.
  #item(id, template) {
    let item = this.#items.get(id);
    if (!item) {
      item = document.getElementById(template).content.firstElementChild.cloneNode(true);
      item.dataset.id = id;
      const button = item.querySelector("button");
      button.disabled = !this.#enabled;
      button.addEventListener("click", () => this.#taps[template]?.(button, item));
      this.#items.set(id, item);
    }
    return item;
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
}

/** What a pull brought, in words: "pulled 2 changes". */
export function brought(changes) {
  const reset = changes.find((c) => c.op === "reset");
  const rows = changes.filter((c) => c.op !== "reset" && c.op !== "sweep").length;
  if (reset) return `pulled everything: ${count(rows, "row")} (${reset.reason})`;
  return rows ? `pulled ${count(rows, "change")}` : "pulled, nothing new";
}

/** Milliseconds from the newest change's commit until now. */
export function age(changes) {
  const newest = Math.max(...changes.map((c) => Date.parse(c.row?.updated_at ?? 0)));
  return Math.max(0, Math.round(performance.timeOrigin + performance.now() - newest));
}

// The intakes of the newest day that has any: today's, unless the database slept over midnight.
function latestDay(intakes) {
  const day = (intake) => new Date(intake.due_at).toDateString();
  const sorted = intakes.sort((a, b) => Date.parse(a.due_at) - Date.parse(b.due_at));
  return sorted.length ? sorted.filter((i) => day(i) === day(sorted.at(-1))) : [];
}
