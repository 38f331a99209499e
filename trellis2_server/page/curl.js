/**
 * The curl command that generates the same model, for a POSIX shell.
 *
 * Does not know: the page, where the server and its key are.
 */

/** Names that are the same to a shell, and to curl's option -F, with and without quotes. */
const PLAIN_NAME = /^[\w.][\w.-]*$/;

/**
 * @param {[field: string, name: string][]} files fields and names, pictures first.
 * @param {Record<string, unknown>} fields
 * @param {{url: string, hasKey: boolean, name: string}} server URL of the route; whether it needs a
 *   key; name of the model's file, without its ending.
 */
export function curlCommand(files, fields, { url, hasKey, name: stem }) {
  const parts = ["curl --fail-with-body"];
  if (hasKey) parts.push('-H "X-API-Key: $TRELLIS2_API_KEY"');
  for (const [field, name] of files) parts.push(`-F ${quoted(`${field}=@${formFile(name)}`)}`);
  for (const [field, value] of Object.entries(fields)) {
    if (value === undefined || value === null) continue;
    const text = `${field}=${Array.isArray(value) ? value.join(",") : value}`;
    // Unlike -F, it takes every character as it is, spaces at the ends too.
    parts.push(`${/^[\w.,=+-]*$/.test(text) ? "-F" : "--form-string"} ${quoted(text)}`);
  }
  parts.push(`-o ${quoted(`${stem}.glb`)}`, quoted(url));
  return parts.join(" \\\n  ");
}

/** A file name without its ending, for a model of that file. @param {string} name */
export function stemOf(name) {
  return name.replace(/\.[^.]*$/, "") || "model";
}

/**
 * A file name as curl's option -F reads it: "," and ";" end a name outside of double quotes, and
 * "-" alone is standard input.
 * @param {string} name
 */
function formFile(name) {
  if (PLAIN_NAME.test(name)) return name;
  const file = name === "-" ? "./-" : name;
  return `"${file.replaceAll(/[\\"]/g, String.raw`\$&`)}"`;
}

/** A word of a POSIX shell. @param {string} text */
function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
