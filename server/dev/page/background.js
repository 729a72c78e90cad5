// A client of nudge for an app that holds no socket: what it does when a push wakes it, or when its person opens it.
//
// It registers where pushes reach it, and then asks nothing. A push carries no data, only an id: woken, the app
// pulls since its cursor, naming that id, and acknowledges what it has saved. Otherwise it would be woken again
// for the same changes.

const BACKOFF_BASE_MS = 500;
const BACKOFF_MAX_MS = 30_000;

// The server answers so where asking again in the same way would change nothing.
class Refused extends Error {
  constructor({ code, title, detail }) {
    super(detail ?? title ?? code);
    this.code = code;
  }
}

/** One device without a socket. */
export class Background {
  #device;
  #rows;
  #token;
  #turn = Promise.resolve(); // one pull after the other: they share the cursor

  /**
   * @param {object} options
   * @param {string} options.device  this installation's id
   * @param {import("./rows.js").Rows} options.rows
   * @param {() => Promise<string>} options.token  fetches a token that is valid now
   */
  constructor({ device, rows, token }) {
    this.#device = device;
    this.#rows = rows;
    this.#token = token;
  }

  /**
   * Tells the server where pushes reach this device: at a launch, and whenever the platform hands out another
   * target. The cursor says what it has, so that what it missed meanwhile is pushed too.
   * @param {{road: string, app: string, environment: string, target: object}} where
   */
  register({ road, app, environment, target }, signal) {
    const body = { road, app, environment, target, cursor: this.#rows.cursor ?? "" };
    return this.#retried(signal, () => this.#send("PUT", `/v1/devices/${encodeURIComponent(this.#device)}`, body, signal));
  }

  /**
   * What an app does in the time that a push gives it, or when it is opened: pulls until nothing is left, and
   * acknowledges. It tries until it succeeds, the server refuses, or the signal ends the app.
   * @param {string} nudge  the id that the push carried; "" if none did
   * @param {AbortSignal} signal
   * @returns {Promise<{changes: object[], bytes: number}>}
   */
  woken(nudge, signal) {
    const work = this.#turn.then(() => this.#retried(signal, () => this.#catchUp(nudge, signal)));
    this.#turn = work.catch(() => {});
    return work;
  }

  async #catchUp(nudge, signal) {
    const got = { changes: [], bytes: 0 };
    for (let more = true; more;) {
      const query = new URLSearchParams();
      if (this.#rows.cursor !== null) query.set("since", this.#rows.cursor);
      if (nudge) query.set("nudge", nudge);
      const text = await this.#send("GET", `/v1/changes?${query}`, null, signal);
      const page = JSON.parse(text);
      this.#rows.apply(page);
      got.bytes += new Blob([text]).size;
      got.changes.push(...page.changes);
      more = page.has_more;
    }
    await this.#send("POST", "/v1/ack", { cursor: this.#rows.cursor }, signal);
    return got;
  }

  async #retried(signal, attempt) {
    for (let tries = 0; ; tries++) {
      try {
        return await attempt();
      } catch (error) {
        if (error.code === "cursor_foreign" || error.code === "cursor_malformed") this.#rows.erase();
        else if (error instanceof Refused || signal?.aborted) throw error;
        // Full jitter, as on the socket; the server's hint wins.
        const most = Math.min(BACKOFF_MAX_MS, BACKOFF_BASE_MS * 2 ** tries);
        await new Promise((resolve) => setTimeout(resolve, error.after ?? Math.random() * most));
      }
    }
  }

  // Its error is a Refused, or one after which it may try again.
  async #send(method, path, body, signal) {
    const response = await fetch(path, {
      method,
      signal,
      headers: {
        authorization: `Bearer ${await this.#token()}`,
        "nudge-device": this.#device,
        ...(body && { "content-type": "application/json" }),
      },
      body: body && JSON.stringify(body),
    });
    const text = await response.text();
    if (response.ok) return text;
    const problem = response.headers.get("content-type")?.includes("json") ? JSON.parse(text) : { title: response.statusText };
    if (response.status < 500 && response.status !== 429) throw new Refused(problem);
    throw Object.assign(new Error(problem.title), { after: problem.retry_after_ms });
  }
}
