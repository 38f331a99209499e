/**
 * An event stream read by `fetch`: `EventSource` cannot send a key.
 * https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
 */

/** @typedef {{event: string, data: string}} Event */

/**
 * The events of a reply's body, as they come.
 * @param {ReadableStream<Uint8Array>} body
 * @param {() => void} [sign] called at every sign of life, comments too.
 * @returns {AsyncGenerator<Event>}
 */
export async function* readEvents(body, sign = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      sign();
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = /** @type {string} */ (blocks.pop());
      for (const block of blocks) {
        const event = parseEvent(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {string} block @returns {Event | null} */
function parseEvent(block) {
  const found = { event: "message", data: "" };
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    const [, name, value] = /^(\w+):? ?(.*)$/.exec(line) ?? [];
    if (name === "event") found.event = value;
    if (name === "data") data.push(value);
  }
  return data.length ? { ...found, data: data.join("\n") } : null;
}
