// The lane below the devices: what happened, newest first, and dots that show which way it went.

import { fill } from "./dom.js";

const KEPT = 60;

const names = { phone: "Phone", tablet: "Tablet", pocket: "Pocket" };

/** Dispatches "added" {side, kind} for each line. */
export class Lane extends EventTarget {
  #list;
  #template;
  #still = matchMedia("(prefers-reduced-motion: reduce)");

  constructor() {
    super();
    this.#list = document.getElementById("events");
    this.#template = document.getElementById("event");
  }

  /**
   * Adds a line.
   * @param {"phone"|"tablet"|"pocket"} side
   * @param {string} kind  own · nudge · push · pull · held · link · problem
   * @param {string} what
   * @param {string[]} facts  sizes and times
   */
  add(side, kind, what, facts = []) {
    const item = fill(this.#template, { who: names[side], what, facts: facts.join(" · ") });
    item.dataset.side = side;
    item.dataset.kind = kind;
    item.querySelector("use").setAttribute("href", `#i-${side}`);
    this.#list.prepend(item);
    while (this.#list.children.length > KEPT) this.#list.lastChild.remove();
    this.dispatchEvent(new CustomEvent("added", { detail: { side, kind } }));
  }

  /** Sends a dot along a device's line, or that of the push service: "up" to the database, "down" from it. */
  pulse(side, way) {
    if (this.#still.matches) return;
    const line = document.querySelector(`[data-line="${side}"]`);
    const right = side === "push" || side === "pocket"; // where the line is, seen from the database
    const outward = right === (way === "down"); // left to right
    const ends = outward ? ["0%", "100%"] : ["100%", "0%"];
    line.firstElementChild.animate(
      [
        { left: ends[0], opacity: 0 },
        { opacity: 1, offset: 0.2 },
        { opacity: 1, offset: 0.8 },
        { left: ends[1], opacity: 0 },
      ],
      { duration: 650, easing: "ease-in-out" },
    );
  }
}
