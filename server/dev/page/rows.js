// What a device holds: its rows, and the cursor up to which they are right.
//
// Both live in one record of the browser's storage and are written at once: a page of changes without
// its cursor, or a cursor without its page, would lose changes or claim ones that were never applied.

const VERSION = 1;

/** The rows of one device, kept in memory and, page by page, in storage. */
export class Rows {
  #storage;
  #name;
  #rows = new Map(); // id → {table, key, row, scopes: {scope: mark}}; the mark is "" or a reset's gen

  /** The cursor of the last page that was applied; null for a device that has none. */
  cursor = null;

  /** False in the middle of a pull: the rows may then show half a transaction, so nobody looks. */
  whole = true;

  /**
   * Loads what storage holds under the name, or starts empty.
   * @param {Storage} storage  localStorage, or anything with getItem, setItem and removeItem
   * @param {string} name
   */
  constructor(storage, name) {
    this.#storage = storage;
    this.#name = name;
    const saved = JSON.parse(storage.getItem(name) ?? "null");
    if (saved?.version !== VERSION) return;
    this.cursor = saved.cursor;
    this.whole = saved.whole;
    this.#rows = new Map(saved.rows.map((r) => [identity(r.table, r.key), r]));
  }

  get size() {
    return this.#rows.size;
  }

  /** The rows of a table, as objects. */
  of(table) {
    return [...this.#rows.values()].filter((r) => r.table === table).map((r) => r.row);
  }

  /** Applies one page and saves it together with its cursor. */
  apply(page) {
    for (const change of page.changes) this.#applyOne(change);
    this.cursor = page.cursor;
    this.whole = !page.has_more;
    this.#save();
  }

  /** Takes a fresher cursor for the same rows. */
  refresh(cursor) {
    this.cursor = cursor;
    this.#save();
  }

  /** Forgets everything, like an app that was installed anew. */
  erase() {
    this.#rows.clear();
    this.cursor = null;
    this.whole = true;
    this.#storage.removeItem(this.#name);
  }

  #applyOne(c) {
    switch (c.op) {
      case "upsert": {
        const id = identity(c.table, c.key);
        const scopes = this.#rows.get(id)?.scopes ?? {};
        scopes[c.scope] = ""; // it came anew: no longer marked
        this.#rows.set(id, { table: c.table, key: c.key, row: c.row, scopes });
        return;
      }
      case "patch": {
        const held = this.#rows.get(identity(c.table, c.key));
        if (held) Object.assign(held.row, c.row); // a patch of an absent row says nothing
        return;
      }
      case "delete": {
        const id = identity(c.table, c.key);
        const held = this.#rows.get(id);
        if (held) this.#release(id, held, c.scope);
        return;
      }
      case "reset": // mark; a newer reset takes over the marks of an older one
        this.#each(c, (_, held, scope) => { held.scopes[scope] = c.gen; });
        return;
      case "sweep": // what is still marked did not come again
        this.#each(c, (id, held, scope) => {
          if (held.scopes[scope] === c.gen) this.#release(id, held, scope);
        });
        return;
      case "forget":
        this.#each({ scope: c.scope, table: "*" }, (id, held, scope) => this.#release(id, held, scope));
        return;
    }
    // An op of a later version: its rows come again with the reset that a newer client asks for.
  }

  // A row stays as long as one scope holds it.
  #release(id, held, scope) {
    delete held.scopes[scope];
    if (Object.keys(held.scopes).length === 0) this.#rows.delete(id);
  }

  #each({ scope, table }, visit) {
    for (const [id, held] of [...this.#rows]) {
      if (table !== "*" && table !== held.table) continue;
      for (const s of Object.keys(held.scopes)) {
        if (scope === "*" || scope === s) visit(id, held, s);
      }
    }
  }

  #save() {
    this.#storage.setItem(this.#name, JSON.stringify({
      version: VERSION, cursor: this.cursor, whole: this.whole, rows: [...this.#rows.values()],
    }));
  }
}

// The same key in any order of its columns is the same row.
function identity(table, key) {
  return table + JSON.stringify(Object.entries(key).sort(([a], [b]) => (a < b ? -1 : 1)));
}
