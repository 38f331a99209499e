/** A mesh of the user's own that the next pictures texture, and the meshes of jobs of this tab. */

import { fieldRows, valuesOf } from "./settings.js";

/** Fields of a request with a mesh, in the order of the form. */
const FIELDS = [
  "up_axis",
  "uv",
];
const FILE_NAME = /\.(glb|gltf|obj|ply|stl)$/i;

/** Whether a file is a mesh, by its name. @param {File} file */
export function isMesh({ name }) {
  return FILE_NAME.test(name);
}

export class Mesh {
  /** @type {File | null} */
  #file = null;
  /** Meshes that were sent from this tab, by uid of their job. @type {Map<string, File>} */
  #sent = new Map();

  /** @param {HTMLDetailsElement} section has the buttons and the form. */
  constructor(section) {
    /** @param {string} name @returns {any} */
    const part = (name) => section.querySelector(`[data-mesh="${name}"]`);
    this.section = section;
    this.parts = { pick: part("pick"), remove: part("remove"), form: part("fields") };
    const input = /** @type {HTMLInputElement} */ (section.querySelector("input[type=file]"));
    this.parts.pick.addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      if (input.files?.length) this.choose(input.files[0]);
      input.value = ""; // so that the same file can be picked again
    });
    this.parts.remove.addEventListener("click", () => {
      this.choose(null);
      this.parts.pick.focus();
    });
    this.parts.form.addEventListener("submit", (/** @type {Event} */ event) =>
      event.preventDefault(),
    );
    this.choose(null);
  }

  /** Fills the form. @param {import("./settings.js").Options} options */
  setOptions(options) {
    this.parts.form.replaceChildren(...fieldRows(options, FIELDS, "mesh"));
  }

  /** Takes a mesh for the next pictures; null: none. @param {File | null} file */
  choose(file) {
    this.#file = file;
    this.parts.pick.textContent = file ? file.name : "Choose a mesh";
    this.parts.remove.hidden = this.parts.form.hidden = !file;
    if (file) this.section.open = true;
    else this.parts.form.reset();
  }

  /**
   * What the next pictures are sent with.
   * @returns {{file: File | null, fields: Record<string, string>}}
   */
  get next() {
    return { file: this.#file, fields: this.#file ? valuesOf(this.parts.form) : {} };
  }

  /**
   * The fields that a job's mesh is sent again with: those of the form if it has that mesh.
   * @param {File | null} file
   * @param {import("./api.js").Job | null} job
   * @returns {Record<string, string>}
   */
  fieldsOf(file, job) {
    if (!file) return {};
    if (file === this.#file) return valuesOf(this.parts.form);
    const known = Object.entries(job?.parameters ?? {});
    return Object.fromEntries(
      known.filter(([name]) => FIELDS.includes(name)).map(([name, value]) => [name, `${value}`]),
    );
  }

  /** Remembers the mesh of a job. @param {string} id @param {File | null} file */
  remember(id, file) {
    if (file) this.#sent.set(id, file);
  }

  /**
   * The mesh of a job, if this tab sent it.
   * @param {string} id
   * @param {import("./api.js").Job | null} job
   */
  of(id, job) {
    return this.#sent.get(id) ?? this.#sent.get(job?.uid ?? "") ?? null;
  }
}

/** Whether a job textures a mesh of its request. @param {import("./api.js").Job | null} job */
export function hasMesh(job) {
  return "geo_rotation" in (job?.parameters ?? {});
}
