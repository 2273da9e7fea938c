// Verifies the signature of a certificate: JWS, compact serialisation, Ed25519 (RFC 7515, RFC 8037).

const bytes = (base64url) => {
  const text = atob(base64url.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
};

const readable = (base64url) => JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes(base64url)));

/**
 * Verify a certificate. Throws an Error that says what is wrong.
 *
 * @param certificate an issued certificate with its `jws`.
 * @param keys the JWKS of the service.
 * @returns the id of the key that signed it.
 */
export async function verify(certificate, keys) {
  if (typeof certificate?.jws !== "string") throw new Error("There is no signature in it.");
  const parts = certificate.jws.split(".");
  if (parts.length !== 3) throw new Error("The signature is not a JWS of three parts.");
  let header, payload, signature;
  try {
    header = readable(parts[0]);
    payload = readable(parts[1]);
    signature = bytes(parts[2]);
  } catch {
    throw new Error("The signature cannot be read.");
  }
  if (!["EdDSA", "Ed25519"].includes(header.alg)) throw new Error(`It is signed with ${header.alg}, not with Ed25519.`);
  const key = keys.keys.find((each) => each.kid === header.kid && each.kty === "OKP" && each.crv === "Ed25519");
  if (!key) throw new Error("The service has no key of that name.");
  const signed = new TextEncoder().encode(`${parts[0]}.${parts[1]}`);
  if (!(await holds(bytes(key.x), signature, signed))) throw new Error("The signature does not fit its content.");
  const { jws: _, ...said } = certificate;
  const different = difference(said, payload);
  if (different) throw new Error(`It is not what was signed: ${different} was changed.`);
  return key.kid;
}

async function holds(key, signature, signed) {
  try {
    const imported = await crypto.subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]);
    return await crypto.subtle.verify({ name: "Ed25519" }, imported, signature, signed);
  } catch {
    // This browser has no Ed25519, or it has none on pages over plain HTTP.
    const nacl = await fallback();
    return signature.length === 64 && nacl.sign.detached.verify(signed, signature, key);
  }
}

let loading = null;

function fallback() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "/playground/vendor/tweetnacl/nacl-fast.min.js";
    script.onload = () => resolve(window.nacl);
    script.onerror = () => reject(new Error("The signature check could not be loaded."));
    document.head.append(script);
  });
  return loading;
}

/** The path of the first difference between two JSON values, or null. */
function difference(left, right, path = "") {
  const isObject = (value) => typeof value === "object" && value !== null;
  if (!isObject(left) || !isObject(right)) return Object.is(left, right) || left === right ? null : path || "all of it";
  for (const name of new Set([...Object.keys(left), ...Object.keys(right)])) {
    const place = path ? `${path}.${name}` : name;
    if (!(name in left) || !(name in right)) return place;
    const found = difference(left[name], right[name], place);
    if (found) return found;
  }
  return null;
}
