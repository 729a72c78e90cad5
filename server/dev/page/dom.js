// The little of the DOM that several parts of the page share.

/** Clones a template's only element and fills its [data-text] elements. */
export function fill(template, texts) {
  const element = template.content.firstElementChild.cloneNode(true);
  setTexts(element, texts);
  return element;
}

/** Sets the [data-text] elements below root whose text differs. */
export function setTexts(root, texts) {
  for (const [name, text] of Object.entries(texts)) {
    const at = root.querySelector(`[data-text="${name}"]`);
    if (at.textContent !== String(text)) at.textContent = text;
  }
}

/** Bytes for people: 512 B, 4.1 kB. */
export function size(bytes) {
  return bytes < 1000 ? `${bytes} B` : `${(bytes / 1000).toFixed(1)} kB`;
}

/** "1 change", "2 changes". */
export function count(n, one) {
  return `${n} ${one}${n === 1 ? "" : "s"}`;
}

/** Resolves after the next paint, or at once in a page that is not painted. */
export function painted() {
  if (document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel(); // a task after the frame, that is after its paint
      port1.onmessage = () => resolve();
      port2.postMessage(null);
    });
  });
}
