// The demo app's own backend: signing in, and writing. Nothing here is nudge's.

/** A refusal of the backend: the problem's code and what it says. */
export class Problem extends Error {
  constructor({ code, title, detail }) {
    super(detail ?? title);
    this.code = code;
  }
}

/** Signs a device in: {token, user, psql}. */
export function session(user, device) {
  return ask(`/demo/session?${new URLSearchParams({ user, device })}`);
}

/** Ticks an intake off, or takes that back: {id, updated_at}. */
export function toggle(token, device, intake) {
  return write(`/demo/intakes/${intake}/toggle`, token, device);
}

/** Supplies another pack: {id, updated_at}. */
export function refill(token, device, medication) {
  return write(`/demo/medications/${medication}/refill`, token, device);
}

function write(path, token, device) {
  return ask(path, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ device }),
  });
}

async function ask(path, init) {
  const response = await fetch(path, init);
  const body = await response.json();
  if (!response.ok) throw new Problem(body);
  return body;
}
