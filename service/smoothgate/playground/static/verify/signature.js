// The signature of a certificate: JWS, compact serialisation, Ed25519 (RFC 7515, RFC 8037, RFC 9864).

/** Why a text is no certificate that a key of the set signed. `code` is a stable name of the reason. */
export class Rejected extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const bytes = (base64url) => {
  const text = atob(base64url.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
};

const readable = (base64url) => JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes(base64url)));

/**
 * Check the signature of a JWS. Throws `Rejected`.
 *
 * @param jws the text.
 * @param keys a JWKS. Keys of other kinds in it are ignored.
 * @returns {{header, payload, kid}} what was signed, and by which key.
 */
export async function signed(jws, keys) {
  const parts = jws.trim().split(".");
  if (parts.length !== 3) throw new Rejected("bad_signature", "The signature is not a JWS of three parts.");
  let header, payload, signature;
  try {
    header = readable(parts[0]);
    payload = readable(parts[1]);
    signature = bytes(parts[2]);
  } catch {
    throw new Rejected("bad_signature", "The signature cannot be read.");
  }
  if (!["EdDSA", "Ed25519"].includes(header.alg)) {
    throw new Rejected("bad_signature", `It is signed with ${header.alg}, not with Ed25519.`);
  }
  const key = await find(keys, header.kid);
  if (!key) throw new Rejected("unknown_key", "The service has no key of that name.");
  const text = new TextEncoder().encode(`${parts[0]}.${parts[1]}`);
  if (!(await holds(bytes(key.x), signature, text))) {
    throw new Rejected("bad_signature", "The signature does not fit its content.");
  }
  return { header, payload, kid: header.kid };
}

/** Whether digests can be computed here: browsers do on pages over HTTPS and of the same machine alone. */
export const digests = () => Boolean(globalThis.crypto?.subtle);

/** SHA-256 of bytes, hexadecimal. */
export async function sha256(data) {
  if (!digests()) throw new Error("this page may not compute digests; open it over HTTPS");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The Ed25519 key of that thumbprint (RFC 7638). What the set calls its keys counts only without digests. */
async function find(keys, kid) {
  for (const key of keys?.keys ?? []) {
    if (key?.kty !== "OKP" || key.crv !== "Ed25519" || typeof key.x !== "string") continue;
    if ((digests() ? await thumbprint(key) : key.kid) === kid) return key;
  }
  return null;
}

async function thumbprint(key) {
  const text = new TextEncoder().encode(JSON.stringify({ crv: key.crv, kty: key.kty, x: key.x }));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", text));
  return btoa(String.fromCharCode(...digest)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

async function holds(key, signature, text) {
  try {
    const imported = await crypto.subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]);
    return await crypto.subtle.verify({ name: "Ed25519" }, imported, signature, text);
  } catch {
    // This browser has no Ed25519, or it has none on pages over plain HTTP.
    const nacl = await fallback();
    return signature.length === 64 && key.length === 32 && nacl.sign.detached.verify(text, signature, key);
  }
}

let loading = null;

/** TweetNaCl, which makes itself a global of pages and workers: a property of `self`, which Node 18 lacks. */
function fallback() {
  globalThis.self ??= globalThis;
  loading ??= import("./vendor/tweetnacl/nacl-fast.min.js").then(() => globalThis.nacl);
  return loading;
}
