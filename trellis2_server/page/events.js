/**
 * Event streams read with `fetch`, because `EventSource` cannot send an API key.
 * https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
 */

/** @typedef {{event: string, data: string}} Event */

/**
 * Yields the events of a response body.
 * @param {ReadableStream<Uint8Array>} body
 * @param {() => void} [onData] called whenever data arrives, including comments.
 * @returns {AsyncGenerator<Event>}
 */
export async function* readEvents(body, onData = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let incomplete = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      onData();
      const blocks = (incomplete + value).split(/\r?\n\r?\n/);
      incomplete = /** @type {string} */ (blocks.pop());
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
  const parsed = { event: "message", data: "" };
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    const [, name, value] = /^(\w+):? ?(.*)$/.exec(line) ?? [];
    if (name === "event") parsed.event = value;
    if (name === "data") data.push(value);
  }
  return data.length ? { ...parsed, data: data.join("\n") } : null;
}
