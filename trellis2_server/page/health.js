/** What the server says of itself: which engine serves, or why none does. */

import * as api from "./api.js";
import { percent } from "./words.js";

const WHILE_LOADING_MS = 1_500;
const OTHERWISE_MS = 20_000;

/**
 * Keeps the banner true.
 * @param {HTMLElement} banner
 * @param {HTMLElement} chip the one word.
 * @param {(engine: string) => void} whenKnown called when the engine's name is known, and each
 *   time that serving begins.
 */
export function watchHealth(banner, chip, whenKnown) {
  let before = "";
  const look = async () => {
    /** @type {Awaited<ReturnType<typeof api.health>> | null} */
    const health = await api.health().catch(() => null);
    const status = health?.status ?? "unreachable";
    show(banner, sentenceOf(health), health?.notes ?? [], status !== "ok");
    chip.textContent = health ? `${health.engine} · ${status}` : "";
    chip.dataset.status = status;
    if (health && (!before || (status === "ok" && before !== "ok"))) whenKnown(health.engine);
    if (health) before = status;
    setTimeout(look, status === "ok" ? OTHERWISE_MS : WHILE_LOADING_MS);
  };
  look();
}

/** @param {Awaited<ReturnType<typeof api.health>> | null} health */
function sentenceOf(health) {
  if (!health) return "The server cannot be reached. Trying again.";
  if (health.status === "loading") {
    const how = health.progress ? ` (${health.stage}, ${percent(health.progress)})` : "";
    return `The model is loading${how}. Pictures can be sent when it has.`;
  }
  if (health.status !== "ok") return `No models can be made: ${health.error ?? "ask the operator."}`;
  if (health.engine !== "preview") return "";
  return (
    "The preview engine is serving, without TRELLIS.2: it inflates the outline, and knows " +
    "nothing of what the object looks like from behind."
  );
}

/**
 * @param {HTMLElement} banner
 * @param {string} sentence
 * @param {string[]} notes
 * @param {boolean} isTrouble
 */
function show(banner, sentence, notes, isTrouble) {
  banner.hidden = !sentence;
  banner.classList.toggle("is-trouble", isTrouble);
  const text = [sentence, ...notes].join("\n");
  if (banner.dataset.says === text) return; // a live region speaks when it changes
  banner.dataset.says = text;
  const line = document.createElement("p");
  line.textContent = sentence;
  banner.replaceChildren(line);
  if (!sentence || !notes.length) return;
  const why = banner.appendChild(document.createElement("details"));
  const summary = why.appendChild(document.createElement("summary"));
  summary.textContent = "What the server notes";
  const list = why.appendChild(document.createElement("ul"));
  for (const note of notes) list.appendChild(document.createElement("li")).textContent = note;
}
