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

/** The phone that an app without a socket is on, simulated by the demo's backend. */
export class Phone {
  #token;

  /** @param {() => Promise<string>} token */
  constructor(token) {
    this.#token = token;
  }

  /** Gets the phone, of platform "ios" or "android": {road, app, environment, target, switches, run}. */
  get(platform) {
    return this.#ask("PUT", "", { platform });
  }

  /** Changes what the phone goes through: offline, force_quit, no_background, low_power, doze, open. */
  change(switches) {
    return this.#ask("PATCH", "", switches);
  }

  /** Lets an hour pass. */
  later() {
    return this.#ask("POST", "/later");
  }

  /** What the push service and the phone have done since an entry, once there is something: {entries, since}. */
  log(since) {
    return this.#ask("GET", `/log?${new URLSearchParams({ since })}`);
  }

  /** Why the device is stale: {says, stale}. */
  why() {
    return this.#ask("GET", "/why");
  }

  async #ask(method, path, body) {
    return ask(`/demo/pocket${path}`, {
      method,
      headers: { authorization: `Bearer ${await this.#token()}`, ...(body && { "content-type": "application/json" }) },
      body: body && JSON.stringify(body),
    });
  }
}
