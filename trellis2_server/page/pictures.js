/** Pictures that a person drops, pastes or picks. */

/**
 * Gives the pictures that come in, in whichever way.
 * @param {(pictures: File[]) => void} give
 * @param {(sentence: string) => void} refuse
 * @param {HTMLInputElement} input picks files.
 * @param {HTMLElement} veil shown while something hovers.
 */
export function takePictures(give, refuse, input, veil) {
  /** @param {Iterable<File>} files */
  const take = (files) => {
    const every = [...files];
    // An empty type is one that the browser does not know; the server looks itself.
    const pictures = every.filter(({ type }) => type === "" || type.startsWith("image/"));
    if (pictures.length) give(pictures);
    else if (every.length) refuse(`${every[0].name} is not a picture.`);
  };

  for (const button of document.querySelectorAll("[data-pick]")) {
    button.addEventListener("click", () => input.click());
  }
  input.addEventListener("change", () => {
    take(input.files ?? []);
    input.value = ""; // the same picture may be picked again
  });

  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files;
    if (!files?.length) return;
    event.preventDefault();
    take(files);
  });

  let depth = 0; // of the elements that the pointer is over, as dragenter and dragleave nest
  /** @param {DragEvent} event */
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files") ?? false;
  document.addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    depth += 1;
    veil.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!hasFiles(event)) return;
    depth = Math.max(0, depth - 1);
    veil.hidden = depth === 0;
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    take(event.dataTransfer?.files ?? []);
  });
}
