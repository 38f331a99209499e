/** The page: connects its parts, and holds which job is selected. */

import * as api from "./api.js";
import { Describe, fileNameOf, titleOf } from "./describe.js";
import { Downloads } from "./downloads.js";
import { watchHealth } from "./health.js";
import { History } from "./history.js";
import { hasFailedAtCutout, isCancelled, isFinished, watch } from "./job.js";
import { keyDialog } from "./key.js";
import { hasMesh, Mesh } from "./mesh.js";
import { acceptPictures } from "./pictures.js";
import { Settings } from "./settings.js";
import { Sides } from "./sides.js";
import { announcementOf, fractionOf, showSteps, statusLineOf } from "./steps.js";
import { loadViewer, Viewer } from "./viewer.js";

/** @param {string} id @returns {any} */
const part = (id) => document.getElementById(id);
const parts = {
  alert: part("alert"),
  announcement: part("announcement"),
  bar: part("bar"),
  cancel: part("cancel"),
  caption: part("caption"),
  display: part("display"),
  error: part("job-error"),
  job: part("job"),
  newSeed: part("new-seed"),
  picture: part("picture"),
  rerun: part("rerun"),
  status: part("job-status"),
  steps: part("steps"),
  title: part("job-title"),
  views: part("views"),
  warnings: part("warnings"),
};

const settings = new Settings(part("settings"), part("reset"));
const downloads = new Downloads(part("downloads"));
const viewer = new Viewer(part("viewer"), part("viewer-error"));
const history = new History(part("history"), part("history-empty"), part("history-more"), openJob);

const sides = new Sides(part("sides"), (pictures) => sendSides(pictures));
const describe = new Describe(part("describe"), part("describe-hint"), (text) => sendText(text));
const mesh = new Mesh(part("mesh"));

/** Pictures that were sent from this tab, by uid of their job. @type {Map<string, File>} */
const sent = new Map();
/** The selected job. */
const current = {
  id: "",
  /** @type {api.Job | null} */
  job: null,
  /** The model in the viewer: "textured", "shape" or none. */
  model: "",
  /** The model that the user has selected. @type {"textured" | "shape"} */
  view: "textured",
  /** URL of the visible picture. */
  picture: "",
  stop: new AbortController(),
};

// ---- sending -------------------------------------------------------------------------

/**
 * Sends pictures, one after the other, and opens the job of the first one.
 * @param {File[]} pictures
 * @param {Record<string, string>} [more] fields that override the settings.
 * @param {File | null} [model] mesh that the pictures texture.
 */
async function send(pictures, more = mesh.next.fields, model = mesh.next.file) {
  showError(null);
  if (!part("settings").reportValidity()) return;
  const fields = { texture: "true", ...settings.values(), ...more };
  let first = "";
  for (const [at, picture] of pictures.entries()) {
    if (at === 0) showPicture(URL.createObjectURL(picture), "Picture", "picture");
    try {
      settings.checkSize(picture, model);
      const id = await api.send([["image", picture]], fields, model);
      sent.set(id, picture);
      mesh.remember(id, model);
      first ||= id;
      if (id === first) openJob(id);
    } catch (error) {
      showError(/** @type {Error} */ (error), () => send([picture], fields, model));
      if (!first) parts.display.dataset.shows = current.model ? "model" : "nothing";
      break;
    }
  }
  history.refresh();
}

/**
 * Sends several pictures of one object, and opens their job.
 * @param {import("./sides.js").Sent[]} pictures the front first.
 * @param {Record<string, string>} [more] fields that override the settings.
 * @param {File | null} [model] mesh that the pictures texture.
 */
async function sendSides(pictures, more = mesh.next.fields, model = mesh.next.file) {
  showError(null);
  if (!part("settings").reportValidity()) return;
  const front = pictures[0][1];
  showPicture(URL.createObjectURL(front), "Picture", "picture");
  try {
    settings.checkSize(...pictures.map(([, file]) => file), model);
    const fields = { texture: "true", ...settings.values(), ...more };
    const id = await api.send(pictures, fields, model);
    sent.set(id, front);
    mesh.remember(id, model);
    if (pictures.length > 1) sides.remember(id, pictures);
    parts.display.scrollIntoView({ block: "nearest" }); // the button may be far below it
    openJob(id);
  } catch (error) {
    showError(/** @type {Error} */ (error));
    parts.display.dataset.shows = current.model ? "model" : "nothing";
  }
  history.refresh();
}

/**
 * Sends a text, and opens its job.
 * @param {string} text
 * @param {Record<string, string>} [more] fields that override the settings.
 * @param {File | null} [model] mesh that the picture of the text textures.
 */
async function sendText(text, more = mesh.next.fields, model = mesh.next.file) {
  showError(null);
  if (!part("settings").reportValidity()) return;
  try {
    settings.checkSize(model);
    const fields = { texture: "true", ...settings.values(), ...more, text };
    const id = await api.send([], fields, model);
    describe.remember(id, text);
    mesh.remember(id, model);
    parts.display.scrollIntoView({ block: "nearest" });
    openJob(id);
  } catch (error) {
    showError(/** @type {Error} */ (error), () => sendText(text, more, model));
  }
  history.refresh();
}

/** The picture of the selected job: the file if this tab sent it, otherwise the cut-out. */
async function pictureOfJob() {
  const file = sent.get(current.id) ?? sent.get(current.job?.uid ?? "");
  if (file) return file;
  const url = current.job?.files?.["input.png"]?.url;
  if (!url) return null;
  return new File([await api.file(url)], "picture.png", { type: "image/png" });
}

/** @param {Record<string, string>} fields fields that override the settings. */
async function sendAgain(fields) {
  try {
    const model = mesh.of(current.id, current.job);
    const more = { ...mesh.fieldsOf(model, current.job), ...fields };
    const text = describe.textOf(current.id, current.job);
    if (text) return await sendText(text, more, model);
    const several = await sides.picturesOf(current.id, current.job);
    if (several) return await sendSides(several, more, model);
    const picture = await pictureOfJob();
    if (picture) await send([picture], more, model);
  } catch (error) {
    showError(/** @type {Error} */ (error));
  }
}

/** Sends again what a job was made from, if this tab sent it. @param {string} id */
function resendOf(id) {
  return sent.has(id) || describe.textOf(id, null) ? () => sendAgain({}) : undefined;
}

/**
 * Shows an error message; null hides it.
 * @param {Error | null} error
 * @param {() => void} [again] sends the request again, which is offered.
 */
function showError(error, again) {
  parts.alert.replaceChildren(error?.message ?? "");
  parts.alert.hidden = !error;
  if (!error || !again) return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Send it again";
  button.addEventListener("click", again);
  parts.alert.append(" ", button);
}

// ---- the selected job ----------------------------------------------------------------

/** Selects a job by the URL's hash, so that the browser's history works. @param {string} id */
function openJob(id) {
  if (location.hash === `#${id}`) watchJob();
  else location.hash = id;
}

/** Watches the job that the URL's hash contains. */
async function watchJob() {
  const id = location.hash.slice(1);
  if (!/^[0-9a-f-]{32,36}$/.test(id)) return;
  current.stop.abort();
  const stop = (current.stop = new AbortController());
  Object.assign(current, { id, job: null, model: "", view: "textured" });
  showError(null);
  parts.error.hidden = true;
  viewer.clear();
  delete parts.display.dataset.model;
  parts.display.dataset.shows = "waiting";
  const file = sent.get(id);
  if (file) showPicture(URL.createObjectURL(file), "Picture", "picture");
  try {
    await watch(id, showJob, showConnection, stop.signal);
    history.refresh();
  } catch (error) {
    if (stop.signal.aborted) return;
    parts.job.hidden = true;
    downloads.show(null, "", {});
    if (!current.model) parts.display.dataset.shows = "nothing";
    showError(/** @type {Error} */ (error), resendOf(id));
  }
}

/** Shows a connection problem; null: there is none. @param {string | null} message */
function showConnection(message) {
  parts.status.classList.toggle("is-error", message !== null);
  if (!message) return;
  parts.job.hidden = false;
  parts.status.textContent = message;
}

/** @param {api.Job} job */
function showJob(job) {
  const before = current.job;
  current.job = job;
  const file = sent.get(current.id);
  const model = mesh.of(current.id, job);
  if (file) sent.set(job.uid, file);
  history.update(job);
  history.select(job.uid);

  const text = describe.textOf(current.id, job);

  parts.job.hidden = false;
  parts.title.textContent = file?.name ?? titleOf(text ?? "Model");
  showSteps(parts.steps, job);
  showProgress(job, file?.name ?? titleOf(text ?? "model"));
  showProblems(job);
  parts.cancel.hidden = isFinished(job);
  const isRepeatable = isFinished(job) && (file || text || job.files?.["input.png"]);
  parts.rerun.hidden = !isRepeatable || (hasMesh(job) && !model);
  parts.newSeed.hidden = parts.rerun.hidden || (!text && hasFailedAtCutout(job));
  const name = file?.name ?? fileNameOf(text ?? "picture");
  const files = text ? [] : (sides.namesOf(current.id, job) ?? [["image", name]]);
  if (hasMesh(job)) files.push(["mesh", model?.name ?? "mesh.glb"]);
  downloads.show(job, name, settings.defaults(), files, text);

  const cutout = job.files?.["input.png"];
  if (cutout && !before?.files?.["input.png"]) showCutout(cutout.url);
  if (job.status === "error" && parts.display.dataset.shows === "waiting" && !job.shape_ready) {
    parts.display.dataset.shows = "nothing";
  }
  parts.views.hidden = !(job.shape_ready && job.texture_ready);
  showModel();
}

/** @param {api.Job} job @param {string} name */
function showProgress(job, name) {
  const fraction = fractionOf(job);
  if (fraction === null) parts.bar.removeAttribute("value");
  else parts.bar.value = fraction;
  parts.bar.hidden = isFinished(job);
  parts.status.textContent = statusLineOf(job);
  document.title = isFinished(job) || fraction === null
    ? "TRELLIS.2: picture to model"
    : `${Math.floor(fraction * 100)} % · ${name}`;
  const announcement = announcementOf(job);
  if (parts.announcement.textContent !== announcement) {
    parts.announcement.textContent = announcement;
  }
}

/** @param {api.Job} job */
function showProblems(job) {
  const hasFailed = job.status === "error" && !isCancelled(job);
  if (parts.error.hidden === hasFailed) {
    parts.error.textContent = hasFailed ? (job.error ?? "") : "";
  }
  parts.error.hidden = !hasFailed;
  const warnings = job.warnings ?? [];
  if (parts.warnings.children.length !== warnings.length) {
    parts.warnings.replaceChildren(
      ...warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })),
    );
  }
}

// ---- picture and model ---------------------------------------------------------------

/** @param {string} url of the server. */
async function showCutout(url) {
  const { signal } = current.stop;
  const content = await api.file(url, signal).catch(() => null);
  if (!content || signal.aborted) return;
  const shows = current.model ? "model" : "cutout";
  showPicture(URL.createObjectURL(content), "Cut-out picture", shows);
}

/**
 * @param {string} url of a blob.
 * @param {string} caption
 * @param {string} shows what the display shows from now on.
 */
function showPicture(url, caption, shows) {
  if (current.picture) URL.revokeObjectURL(current.picture);
  current.picture = parts.picture.src = url;
  parts.picture.alt = caption;
  parts.caption.textContent = caption;
  parts.display.dataset.shows = shows;
}

/** Shows the model that the user has selected, or the one that is available. */
async function showModel() {
  const { job } = current;
  if (!job) return;
  const isTextured = job.texture_ready && (current.view === "textured" || !job.shape_ready);
  const model = isTextured ? "textured" : job.shape_ready ? "shape" : "";
  for (const button of parts.views.children) {
    button.setAttribute("aria-pressed", String(button.dataset.view === current.view));
  }
  if (!model || current.model === model) return;
  const before = current.model;
  current.model = model;
  const { signal } = current.stop;
  const description = isTextured ? "The textured model" : "The untextured model";
  try {
    const url = job.files?.[`${model}.glb`]?.url ?? `jobs/${job.uid}/${model}.glb`;
    const glb = await api.file(url, signal);
    if (signal.aborted || current.model !== model) return;
    showConnection(null);
    parts.status.textContent = statusLineOf(job);
    const isShown = await viewer.show(glb, description, before !== "", job);
    if (isShown && !signal.aborted) {
      parts.display.dataset.shows = "model";
      parts.display.dataset.model = model;
    }
  } catch (error) {
    if (signal.aborted) return;
    current.model = before;
    if (error instanceof api.ServerError && !error.isTemporary) {
      showError(error, resendOf(current.id));
      return;
    }
    showConnection("The connection is lost. Trying again.");
    setTimeout(() => signal.aborted || showModel(), 1_500);
  }
}

// ---- events --------------------------------------------------------------------------

api.setKeyPrompt(keyDialog(part("key")));
acceptPictures(
  (pictures) => send(pictures),
  (file) => mesh.choose(file),
  (message) => showError(new Error(message)),
  part("pick"),
  part("drop-overlay"),
);
parts.cancel.addEventListener("click", () =>
  api.cancel(current.job?.uid ?? current.id).catch((error) => showError(error)),
);
parts.newSeed.addEventListener("click", () => sendAgain({ seed: "-1" }));
parts.rerun.addEventListener("click", () => sendAgain({}));
parts.views.addEventListener("click", (/** @type {Event} */ event) => {
  const button = /** @type {HTMLElement} */ (event.target).closest("button");
  if (!button) return;
  current.view = button.dataset.view === "shape" ? "shape" : "textured";
  showModel();
});
watchHealth(part("banner"), part("health"), async (engine) => {
  try {
    const options = await api.options();
    settings.show(options, engine === "preview");
    describe.show(options.max_text_length);
    mesh.setOptions(options);
    downloads.setOptions(options);
  } catch (error) {
    showError(/** @type {Error} */ (error));
  }
});
part("skip").addEventListener("click", (/** @type {Event} */ event) => {
  event.preventDefault(); // the URL's hash contains the job
  part("setup").focus();
});
addEventListener("hashchange", watchJob);
history.refresh();
watchJob();
loadViewer().catch(() => {}); // the error is shown with the first model
