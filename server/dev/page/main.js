// Puts the devices of one user on the page. ?user=3 shows somebody else's.

import { session } from "./backend.js";
import { Device } from "./device.js";
import { Lane } from "./lane.js";
import { Pocket } from "./pocket.js";

const DEMO_USER = "7";

const user = new URLSearchParams(location.search).get("user") ?? DEMO_USER;
const lane = new Lane();

try {
  const { user: person, psql } = await session(user, installation("phone"));
  document.getElementById("who").textContent = person.name;
  document.getElementById("psql").textContent = psql;
  const devices = ["phone", "tablet"].map((kind) => new Device({
    kind, lane, user, id: installation(kind), root: document.getElementById(kind),
  }));
  const pocket = new Pocket({
    lane, user, id: installation("pocket"), root: document.getElementById("pocket"), panel: document.getElementById("pocket-panel"),
  });
  for (const device of devices) device.start();
  lane.addEventListener("added", ({ detail: { side } }) => {
    if (side !== "pocket") pocket.look(); // what the others write or hear of concerns this one too
  });
  pocket.start();
} catch (error) {
  const notice = document.getElementById("notice");
  notice.textContent = `The demo’s backend does not answer: ${error.message}`;
  notice.hidden = false;
}

const copy = document.getElementById("copy");
copy.addEventListener("click", async () => {
  await navigator.clipboard.writeText(document.getElementById("psql").textContent);
  copy.textContent = "Copied";
  setTimeout(() => { copy.textContent = "Copy"; }, 2000);
});

// The device's id: made once, kept like an installed app keeps its own.
function installation(kind) {
  const name = `nudge.demo.${user}.${kind}.id`;
  let id = localStorage.getItem(name);
  if (!id) {
    id = `${kind}-${Math.random().toString(36).slice(2, 10)}`;
    localStorage.setItem(name, id);
  }
  return id;
}
