/** The health of the server: which engine is running, or why none is. */

import * as api from "./api.js";
import { percent, stageWords } from "./words.js";

const POLL_UNTIL_OK_MS = 1_500;
const POLL_MS = 20_000;
/** Stages of a load that take long at the first start only. */
const COMPILES = ["compile", "exporter"];

/**
 * Polls the health, and shows it.
 * @param {HTMLElement} banner
 * @param {HTMLElement} label shows the engine and the status.
 * @param {(engine: string) => void} onEngine called with the name of the engine when it is first
 *   known, and each time that the status becomes "ok".
 */
export function watchHealth(banner, label, onEngine) {
  let before = "";
  const poll = async () => {
    /** @type {Awaited<ReturnType<typeof api.health>> | null} */
    const health = await api.health().catch(() => null);
    const status = health?.status ?? "unreachable";
    show(banner, messageOf(health), health?.notes ?? [], !["ok", "loading"].includes(status));
    label.textContent = health ? `${health.engine} · ${status}` : "";
    label.dataset.status = status;
    if (health && (!before || (status === "ok" && before !== "ok"))) onEngine(health.engine);
    if (health) before = status;
    setTimeout(poll, status === "ok" ? POLL_MS : POLL_UNTIL_OK_MS);
  };
  poll();
}

/** @param {Awaited<ReturnType<typeof api.health>> | null} health */
function messageOf(health) {
  if (!health) return "The server cannot be reached. Trying again.";
  if (health.status === "loading") {
    const { stage = "", progress } = health;
    const parts = [stageWords(stage), progress && stage ? percent(progress) : ""].filter(Boolean);
    return [
      parts.length ? `The model is loading: ${parts.join(", ")}.` : "The model is loading.",
      COMPILES.includes(stage) ? "The first start compiles, which takes a minute or more." : "",
      "You can send pictures when it is ready.",
    ].filter(Boolean).join(" ");
  }
  if (health.status !== "ok") {
    return `The server cannot generate models: ${health.error ?? "ask the operator."}`;
  }
  if (health.engine !== "preview") return "";
  return (
    "The preview engine is running instead of TRELLIS.2: it inflates the outline of the object, " +
    "and cannot reconstruct its back."
  );
}

/**
 * @param {HTMLElement} banner
 * @param {string} message
 * @param {string[]} notes
 * @param {boolean} isError
 */
function show(banner, message, notes, isError) {
  banner.hidden = !message;
  banner.classList.toggle("is-error", isError);
  const text = [message, ...notes].join("\n");
  if (banner.dataset.text === text) return; // screen readers announce every change
  banner.dataset.text = text;
  const paragraph = document.createElement("p");
  paragraph.textContent = message;
  banner.replaceChildren(paragraph);
  if (!message || !notes.length) return;
  const details = banner.appendChild(document.createElement("details"));
  const summary = details.appendChild(document.createElement("summary"));
  summary.textContent = "Server notes";
  const list = details.appendChild(document.createElement("ul"));
  for (const note of notes) list.appendChild(document.createElement("li")).textContent = note;
}
