/** Pictures that the user drops, pastes or picks. */

import { isMesh } from "./mesh.js";

/**
 * Calls `onPictures` with the pictures that the user provides.
 * @param {(pictures: File[]) => void} onPictures
 * @param {(mesh: File) => void} onMesh called with a mesh, before any pictures.
 * @param {(message: string) => void} onError
 * @param {HTMLInputElement} input picks files.
 * @param {HTMLElement} overlay shown while files are dragged over the page.
 */
export function acceptPictures(onPictures, onMesh, onError, input, overlay) {
  /** @param {Iterable<File>} fileList */
  const accept = (fileList) => {
    const files = [...fileList].filter((file) => !isMesh(file));
    const mesh = [...fileList].find(isMesh);
    if (mesh) onMesh(mesh);
    // If the browser does not know the type, it is empty; the server checks the content.
    const pictures = files.filter(({ type }) => type === "" || type.startsWith("image/"));
    if (pictures.length) onPictures(pictures);
    else if (files.length) onError(`${files[0].name} is not a picture.`);
  };

  for (const button of document.querySelectorAll("[data-pick]")) {
    button.addEventListener("click", () => input.click());
  }
  input.addEventListener("change", () => {
    accept(input.files ?? []);
    input.value = ""; // so that the same picture can be picked again
  });

  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files;
    if (!files?.length) return;
    event.preventDefault();
    accept(files);
  });

  let depth = 0; // nesting of the dragenter and dragleave events of the elements
  /** @param {DragEvent} event */
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files") ?? false;
  document.addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    depth += 1;
    overlay.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!hasFiles(event)) return;
    depth = Math.max(0, depth - 1);
    overlay.hidden = depth === 0;
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    overlay.hidden = true;
    accept(event.dataTransfer?.files ?? []);
  });
}
