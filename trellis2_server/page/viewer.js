/**
 * The 3D viewer: Google's `<model-viewer>`, from the server or from a CDN.
 *
 * It has no public API for wireframes. Compressed geometry is not supported, because its decoders
 * would be loaded from another origin. Where it cannot be shown, a picture of the server takes its
 * place.
 */

import { serverPicture } from "./fallback.js";

/** @type {Promise<void> | null} */
let loading = null;

/** Resolves when the viewer is loaded. @throws {Error} it could not be loaded. */
export function loadViewer() {
  loading ??= new Promise((resolve, reject) => {
    const meta = /** @type {HTMLMetaElement} */ (document.querySelector('meta[name="viewer"]'));
    const script = document.createElement("script");
    script.type = "module";
    script.src = meta.content;
    script.integrity = meta.dataset.integrity ?? "";
    script.crossOrigin = "anonymous";
    script.addEventListener("load", () => resolve());
    script.addEventListener("error", () =>
      reject(
        new Error(
          "The 3D viewer could not be loaded: the server has no copy, and its CDN cannot be " +
            "reached. Run `npm install --omit=dev` in the repository's folder on the server, and " +
            "restart the server. Downloads are not affected.",
        ),
      ),
    );
    document.head.append(script);
  });
  return loading;
}

export class Viewer {
  /**
   * @param {HTMLElement} container
   * @param {HTMLElement} errorText shows errors of the viewer.
   */
  constructor(container, errorText) {
    this.container = container;
    this.errorText = errorText;
    /** The element, which has no type declarations here. @type {any} */
    this.element = null;
    this.display = /** @type {HTMLElement} */ (container.parentElement);
    this.url = "";
    this.queue = Promise.resolve();
    /** Ends the fetch of a picture of the previous model. */
    this.stop = new AbortController();
  }

  /**
   * Shows a model.
   * @param {Blob} glb
   * @param {string} description alternative text.
   * @param {boolean} isSameJob whether to keep the camera of the previous model.
   * @param {import("./api.js").Job} job has the URLs of pictures of the model.
   * @returns {Promise<boolean>} whether the model is visible, or its picture.
   */
  async show(glb, description, isSameJob, job) {
    this.stop.abort();
    const { signal } = (this.stop = new AbortController());
    const shown = this.queue.then(() => this.#show(glb, description, isSameJob));
    this.queue = shown.then(() => {});
    return (await shown) || this.#showPicture(job, description, signal);
  }

  /** Removes the model. */
  clear() {
    this.stop.abort();
    this.queue = this.queue.then(() => {
      this.#empty();
      this.errorText.hidden = true;
    });
  }

  /**
   * @param {Blob} glb
   * @param {string} description
   * @param {boolean} isSameJob
   */
  async #show(glb, description, isSameJob) {
    this.errorText.hidden = true;
    try {
      await loadViewer();
      const camera = isSameJob && this.element ? this.#camera() : null;
      if (!camera) {
        this.#empty();
        this.element = newElement();
        this.container.append(this.element);
      }
      const url = URL.createObjectURL(glb);
      const loaded = new Promise((resolve, reject) => {
        this.element.addEventListener("load", resolve, { once: true });
        this.element.addEventListener(
          "error",
          () => reject(new Error("The 3D viewer cannot show this file. Downloads are not affected.")),
          { once: true },
        );
      });
      this.element.alt = description;
      this.element.src = url;
      await loaded;
      if (camera) {
        Object.assign(this.element, camera);
        this.element.jumpCameraToGoal();
      }
      this.#release();
      this.url = url;
      delete this.display.dataset.viewer;
      return true;
    } catch (error) {
      this.display.dataset.viewer = "none";
      this.errorText.replaceChildren(...withCode(/** @type {Error} */ (error).message));
      this.errorText.hidden = false;
      return false;
    }
  }

  /**
   * Shows a picture of the server in place of the viewer.
   * @param {import("./api.js").Job} job
   * @param {string} description
   * @param {AbortSignal} signal
   */
  async #showPicture(job, description, signal) {
    const picture = await serverPicture(job, signal);
    if (!picture || signal.aborted) return false;
    this.#empty();
    this.display.dataset.viewer = "none";
    this.url = URL.createObjectURL(picture);
    const image = this.container.appendChild(document.createElement("img"));
    image.alt = `${description}, as a picture`;
    image.src = this.url;
    return true;
  }

  /** Removes what is shown. */
  #empty() {
    this.container.replaceChildren();
    this.element = null;
    delete this.display.dataset.viewer;
    this.#release();
  }

  /** The current position of the camera. */
  #camera() {
    return {
      cameraOrbit: this.element.getCameraOrbit().toString(),
      cameraTarget: this.element.getCameraTarget().toString(),
      fieldOfView: `${this.element.getFieldOfView()}deg`,
    };
  }

  #release() {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = "";
  }
}

/** The parts of a text; those in backticks are code. @param {string} text */
function withCode(text) {
  return text.split("`").map((part, at) => {
    if (at % 2 === 0) return part;
    return Object.assign(document.createElement("code"), { textContent: part });
  });
}

function newElement() {
  const element = /** @type {any} */ (document.createElement("model-viewer"));
  element.setAttribute("camera-controls", "");
  element.setAttribute("touch-action", "pan-y");
  element.setAttribute("interaction-prompt", "none");
  element.setAttribute("camera-orbit", "25deg 78deg 105%");
  element.setAttribute("shadow-intensity", "0.7");
  element.setAttribute("shadow-softness", "0.9");
  element.setAttribute("tone-mapping", "neutral");
  return element;
}
