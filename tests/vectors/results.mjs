// What the JavaScript verifier says of the test vectors, in Node or in a browser.

export async function results({ answered, check, read }, { keys, files, vectors }) {
  const whole = new Map(vectors.map((vector) => [vector.name, vector]));
  const bytes = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const edit = (value, { at, to }) => {
    const place = at.slice(0, -1).reduce((each, step) => each[step], value);
    place[at.at(-1)] = to;
  };
  const resealed = (jws, change) => {
    const [head, body, signature] = jws.split(".");
    const payload = JSON.parse(new TextDecoder().decode(bytes(body.replaceAll("-", "+").replaceAll("_", "/"))));
    edit(payload, change);
    const sealed = btoa(String.fromCharCode(...new TextEncoder().encode(JSON.stringify(payload))));
    return [head, sealed.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", ""), signature].join(".");
  };
  const found = {};
  for (const vector of vectors) {
    const given = structuredClone(vector.given ?? whole.get(vector.of).given);
    if (vector.shown) edit(given, vector.shown);
    const [{ jws, shown }] = read(given);
    const images = vector.images.map((name) => bytes(files[name]));
    const signed = vector.payload ? resealed(jws, vector.payload) : jws;
    const { checks } = await check(signed, keys[vector.keys], { shown, images, texts: answered(given) });
    found[vector.name] = Object.fromEntries(checks.map(({ name, passed }) => [name, passed]));
  }
  return found;
}
