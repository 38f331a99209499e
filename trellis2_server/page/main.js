/** The page: puts its parts together, and holds which job is looked at. */

import * as api from "./api.js";
import { Downloads } from "./downloads.js";
import { watchHealth } from "./health.js";
import { History } from "./history.js";
import { follow, isCancelled, isFinished } from "./job.js";
import { keyDialog } from "./key.js";
import { takePictures } from "./pictures.js";
import { Settings } from "./settings.js";
import { announcementOf, fractionOf, lineOf, showSteps } from "./steps.js";
import { loadViewer, Viewer } from "./viewer.js";

/** @param {string} id @returns {any} */
const part = (id) => document.getElementById(id);
const parts = {
  alert: part("alert"),
  again: part("again"),
  bar: part("bar"),
  cancel: part("cancel"),
  caption: part("caption"),
  error: part("job-error"),
  job: part("job"),
  line: part("line"),
  picture: part("picture"),
  remake: part("remake"),
  said: part("said"),
  stage: part("stage"),
  steps: part("steps"),
  title: part("job-title"),
  views: part("views"),
  warnings: part("warnings"),
};

const settings = new Settings(part("settings"), part("reset"));
const downloads = new Downloads(part("downloads"));
const viewer = new Viewer(part("viewer"), part("viewer-trouble"));
const history = new History(part("history"), part("history-empty"), part("history-more"), goTo);

/** What was sent from this tab, by the job's name. @type {Map<string, File>} */
const sent = new Map();
/** What is looked at. */
const seen = {
  id: "",
  /** @type {api.Job | null} */
  job: null,
  /** The model that the viewer has: its route. */
  model: "",
  /** @type {"textured" | "clay"} */
  view: "textured",
  /** The address of the picture that is shown. */
  picture: "",
  stop: new AbortController(),
};

// ---- sending -------------------------------------------------------------------------

/**
 * Sends pictures, one after the other, and looks at the first.
 * @param {File[]} pictures
 * @param {Record<string, string>} [more] fields over those that are set.
 */
async function send(pictures, more = {}) {
  say(null);
  if (!part("settings").reportValidity()) return;
  const fields = { texture: "true", ...settings.values(), ...more };
  let first = "";
  for (const [at, picture] of pictures.entries()) {
    if (at === 0) showPicture(URL.createObjectURL(picture), "The picture", "picture");
    try {
      checkSize(picture);
      const id = await api.send(picture, picture.name, fields);
      sent.set(id, picture);
      first ||= id;
      if (id === first) goTo(id);
      // Other ways to it, the history's among them, lead to its own name.
      else api.job(id).then((job) => sent.set(job.uid, picture), () => {});
    } catch (error) {
      say(/** @type {Error} */ (error), picture, fields);
      if (!first) parts.stage.dataset.shows = seen.model ? "model" : "nothing";
      break;
    }
  }
  history.refresh();
}

/** @param {File} picture */
function checkSize(picture) {
  const most = settings.options?.max_body_bytes ?? Infinity;
  if (picture.size <= most) return;
  const [is, may] = [picture.size, most].map((bytes) => `${Math.ceil(bytes / 1e6)} MB`);
  throw new Error(`${picture.name} has ${is}, and this server takes ${may} at most.`);
}

/** The same picture again: the file where this tab sent it, else the cut-out. */
async function pictureOfJob() {
  const known = sent.get(seen.id) ?? sent.get(seen.job?.uid ?? "");
  if (known) return known;
  const url = seen.job?.files?.["input.png"]?.url;
  if (!url) return null;
  return new File([await api.file(url)], "picture.png", { type: "image/png" });
}

/** @param {Record<string, string>} fields */
async function sendAgain(fields) {
  try {
    const picture = await pictureOfJob();
    if (picture) await send([picture], fields);
  } catch (error) {
    say(/** @type {Error} */ (error));
  }
}

/**
 * Shows what went wrong, in the server's words; null: nothing did.
 * @param {Error | null} error
 * @param {File} [picture] that can be sent again.
 * @param {Record<string, string>} [fields]
 */
function say(error, picture, fields) {
  parts.alert.replaceChildren(error?.message ?? "");
  parts.alert.hidden = !error;
  if (!error || !picture) return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Send it again";
  button.addEventListener("click", () => send([picture], fields));
  parts.alert.append(" ", button);
}

// ---- looking -------------------------------------------------------------------------

/** @param {string} id */
function goTo(id) {
  if (location.hash === `#${id}`) look();
  else location.hash = id; // and back leads to the one before
}

/** Looks at the job that the address names. */
async function look() {
  const id = location.hash.slice(1);
  if (!/^[0-9a-f-]{32,36}$/.test(id)) return;
  seen.stop.abort();
  const stop = (seen.stop = new AbortController());
  Object.assign(seen, { id, job: null, model: "", view: "textured" });
  say(null);
  parts.error.hidden = true;
  viewer.clear();
  delete parts.stage.dataset.model;
  parts.stage.dataset.shows = "waiting";
  const known = sent.get(id);
  if (known) showPicture(URL.createObjectURL(known), "The picture", "picture");
  try {
    await follow(id, (job) => show(job), trouble, stop.signal);
    history.refresh();
  } catch (error) {
    if (stop.signal.aborted) return;
    parts.job.hidden = true;
    downloads.show(null, "", {});
    if (!seen.model) parts.stage.dataset.shows = "nothing";
    say(/** @type {Error} */ (error), sent.get(id));
  }
}

/** @param {string | null} sentence */
function trouble(sentence) {
  parts.line.classList.toggle("is-trouble", sentence !== null);
  if (!sentence) return;
  parts.job.hidden = false;
  parts.line.textContent = sentence;
}

/** @param {api.Job} job */
function show(job) {
  const before = seen.job;
  seen.job = job;
  const file = sent.get(seen.id);
  if (file) sent.set(job.uid, file);
  history.update(job);
  history.mark(job.uid);

  parts.job.hidden = false;
  parts.title.textContent = file?.name ?? "The model";
  showSteps(parts.steps, job);
  const fraction = fractionOf(job);
  if (fraction === null) parts.bar.removeAttribute("value");
  else parts.bar.value = fraction;
  parts.bar.hidden = isFinished(job);
  parts.line.textContent = lineOf(job);
  document.title = isFinished(job) || fraction === null
    ? "TRELLIS.2: picture to model"
    : `${Math.floor(fraction * 100)} % · ${file?.name ?? "model"}`;
  const said = announcementOf(job);
  if (parts.said.textContent !== said) parts.said.textContent = said;

  const isBad = job.status === "error" && !isCancelled(job);
  if (parts.error.hidden === isBad) parts.error.textContent = isBad ? (job.error ?? "") : "";
  parts.error.hidden = !isBad;
  const warnings = job.warnings ?? [];
  if (parts.warnings.children.length !== warnings.length) {
    parts.warnings.replaceChildren(
      ...warnings.map((words) => Object.assign(document.createElement("li"), { textContent: words })),
    );
  }
  parts.cancel.hidden = isFinished(job);
  parts.again.hidden = parts.remake.hidden =
    !isFinished(job) || !(file || job.files?.["input.png"]);
  downloads.show(job, file?.name ?? "picture.png", standards());

  const cutout = job.files?.["input.png"];
  if (cutout && !before?.files?.["input.png"]) showCutout(cutout.url);
  if (job.status === "error" && parts.stage.dataset.shows === "waiting" && !job.shape_ready) {
    parts.stage.dataset.shows = "nothing";
  }
  parts.views.hidden = !(job.shape_ready && job.texture_ready);
  showModel();
}

/** The server's defaults, by field. */
function standards() {
  const properties = Object.entries(settings.options?.properties ?? {});
  return Object.fromEntries(properties.map(([name, schema]) => [name, schema.default]));
}

/** @param {string} url of the server. */
async function showCutout(url) {
  const { signal } = seen.stop;
  const content = await api.file(url, signal).catch(() => null);
  if (!content || signal.aborted) return;
  showPicture(URL.createObjectURL(content), "What the model sees", seen.model ? "model" : "cutout");
}

/**
 * @param {string} url of a blob.
 * @param {string} caption
 * @param {string} shows what the stage shows from now on.
 */
function showPicture(url, caption, shows) {
  if (seen.picture) URL.revokeObjectURL(seen.picture);
  seen.picture = parts.picture.src = url;
  parts.picture.alt = caption;
  parts.caption.textContent = caption;
  parts.stage.dataset.shows = shows;
}

/** Shows the model that is wanted, or the next best one that is there. */
async function showModel() {
  const { job } = seen;
  if (!job) return;
  const isTextured = job.texture_ready && (seen.view === "textured" || !job.shape_ready);
  const model = isTextured ? "textured" : job.shape_ready ? "shape" : "";
  for (const button of parts.views.children) {
    button.setAttribute("aria-pressed", String(button.dataset.view === seen.view));
  }
  if (!model || seen.model === model) return;
  const before = seen.model;
  seen.model = model;
  const { signal } = seen.stop;
  const words = isTextured ? "The textured model" : "The untextured model";
  try {
    const glb = await api.file(job.files?.[`${model}.glb`]?.url ?? `jobs/${job.uid}/${model}.glb`, signal);
    if (signal.aborted || seen.model !== model) return;
    trouble(null);
    parts.line.textContent = lineOf(job);
    const isShown = await viewer.show(glb, words, before !== "");
    if (isShown && !signal.aborted) {
      parts.stage.dataset.shows = "model";
      parts.stage.dataset.model = model;
    }
  } catch (error) {
    if (signal.aborted) return;
    seen.model = before;
    if (error instanceof api.ServerError && !error.isPassing) {
      say(error, sent.get(seen.id));
      return;
    }
    trouble("The connection is lost. Trying again.");
    setTimeout(() => signal.aborted || showModel(), 1_500);
  }
}

// ---- the parts -----------------------------------------------------------------------

api.whenKeyIsNeeded(keyDialog(part("key")));
takePictures(send, (sentence) => say(new Error(sentence)), part("pick"), part("veil"));
parts.cancel.addEventListener("click", () =>
  api.cancel(seen.job?.uid ?? seen.id).catch((error) => say(error)),
);
parts.again.addEventListener("click", () => sendAgain({ seed: "-1" }));
parts.remake.addEventListener("click", () => sendAgain({}));
parts.views.addEventListener("click", (/** @type {Event} */ event) => {
  const button = /** @type {HTMLElement} */ (event.target).closest("button");
  if (!button) return;
  seen.view = button.dataset.view === "clay" ? "clay" : "textured";
  showModel();
});
watchHealth(part("banner"), part("health"), async (engine) => {
  try {
    const options = await api.options();
    settings.show(options, engine === "preview");
    downloads.offer(options);
  } catch (error) {
    say(/** @type {Error} */ (error));
  }
});
part("skip").addEventListener("click", (/** @type {Event} */ event) => {
  event.preventDefault(); // the address keeps the job
  part("setup").focus();
});
addEventListener("hashchange", look);
history.refresh();
look();
loadViewer().catch(() => {}); // said when there is something to show
