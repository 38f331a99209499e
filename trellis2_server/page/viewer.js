/**
 * The model in 3D: Google's `<model-viewer>`, which the server or a CDN brings.
 *
 * It has no public way to a wireframe, and shows no compressed geometry: its decoders would
 * come from elsewhere.
 */

/** @type {Promise<void> | null} */
let loading = null;

/** Resolves when the viewer can be used. @throws {Error} it could not be had. */
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
          "The 3D viewer could not be loaded: it is not installed beside the server (npm " +
            "install), and its CDN cannot be reached. The downloads work all the same.",
        ),
      ),
    );
    document.head.append(script);
  });
  return loading;
}

export class Viewer {
  /**
   * @param {HTMLElement} stage
   * @param {HTMLElement} trouble where it says what it cannot do.
   */
  constructor(stage, trouble) {
    this.stage = stage;
    this.trouble = trouble;
    /** @type {any} the element; its types are the viewer's own. */
    this.element = null;
    this.url = "";
    this.turn = Promise.resolve();
  }

  /**
   * Shows a model; in the place of another one of the same job, from where that was looked at.
   * @param {Blob} glb
   * @param {string} words that describe it.
   * @param {boolean} isSame whether it is of the same job as the one before.
   * @returns {Promise<boolean>} whether it is to be seen.
   */
  show(glb, words, isSame) {
    const shown = this.turn.then(() => this.#show(glb, words, isSame));
    this.turn = shown.then(() => {});
    return shown;
  }

  /** Nothing is shown any more. */
  clear() {
    this.turn = this.turn.then(() => {
      this.element?.remove();
      this.element = null;
      this.#release();
      this.trouble.hidden = true;
    });
  }

  /**
   * @param {Blob} glb
   * @param {string} words
   * @param {boolean} isSame
   */
  async #show(glb, words, isSame) {
    this.trouble.hidden = true;
    try {
      await loadViewer();
      const camera = isSame && this.element ? this.#camera() : null;
      if (!camera) {
        this.element?.remove();
        this.element = newElement();
        this.stage.append(this.element);
      }
      const url = URL.createObjectURL(glb);
      const done = new Promise((resolve, reject) => {
        this.element.addEventListener("load", resolve, { once: true });
        this.element.addEventListener(
          "error",
          () => reject(new Error("The 3D viewer cannot show this file. The downloads work.")),
          { once: true },
        );
      });
      this.element.alt = words;
      this.element.src = url;
      await done;
      if (camera) {
        Object.assign(this.element, camera);
        this.element.jumpCameraToGoal();
      }
      this.#release();
      this.url = url;
      return true;
    } catch (error) {
      this.trouble.textContent = /** @type {Error} */ (error).message;
      this.trouble.hidden = false;
      return false;
    }
  }

  /** Where it is looked at from. */
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
