/**
 * Opens a model in augmented reality: with Quick Look on iPhones, with Scene Viewer on Android.
 *
 * Does not know: jobs, the page.
 */

/** The program of this device that shows models in AR. @returns {"quick-look" | "scene-viewer" | ""} */
export function arProgram() {
  if (document.createElement("a").relList.supports?.("ar")) return "quick-look";
  return /android/i.test(navigator.userAgent) ? "scene-viewer" : "";
}

/**
 * Opens a USDZ in Quick Look. It takes links with an image as their only child.
 * @param {string} url of the file, or of a blob.
 */
export function openQuickLook(url) {
  const link = document.createElement("a");
  link.rel = "ar";
  link.href = url;
  link.download = "model.usdz"; // a blob has no ending by which its type is known
  link.append(document.createElement("img"));
  link.hidden = true;
  document.body.append(link);
  link.click();
  link.remove();
}

/**
 * The URL that opens a GLB in Scene Viewer, which fetches the file itself.
 * @param {string} url of the file, with https.
 * @param {string} title
 * @param {string} fallback URL of the page that is opened without Scene Viewer.
 */
export function sceneViewerUrl(url, title, fallback) {
  const query = new URLSearchParams({ file: url, mode: "ar_preferred", title });
  return (
    `intent://arvr.google.com/scene-viewer/1.0?${query}#Intent;scheme=https;` +
    "package=com.google.android.googlequicksearchbox;action=android.intent.action.VIEW;" +
    `S.browser_fallback_url=${encodeURIComponent(fallback)};end;`
  );
}
