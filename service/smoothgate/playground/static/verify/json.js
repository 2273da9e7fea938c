// JSON values: where two differ, and whether one is of a schema.

const isObject = (value) => typeof value === "object" && value !== null;

/** The paths of the fields of two objects that differ, whole top-level fields, sorted. */
export function differing(left, right) {
  const names = new Set([...Object.keys(left), ...Object.keys(right)]);
  return [...names].filter((name) => !same(left[name], right[name])).sort();
}

function same(left, right) {
  if (!isObject(left) || !isObject(right)) return left === right;
  if (Array.isArray(left) !== Array.isArray(right)) return false;
  const names = new Set([...Object.keys(left), ...Object.keys(right)]);
  return [...names].every((name) => name in left && name in right && same(left[name], right[name]));
}

/**
 * What is wrong with a value, as text that begins with the place; or null. It knows the part of JSON Schema
 * that the schemas of certificates use.
 */
export function violation(value, schema, root = schema, place = "") {
  const wrong = (what) => `${place || "content"}: ${what}`;
  if (schema.$ref) return violation(value, root.$defs[schema.$ref.split("/").pop()], root, place);
  if (schema.anyOf) {
    const found = schema.anyOf.map((each) => violation(value, each, root, place));
    return found.includes(null) ? null : found[0];
  }
  if ("const" in schema && value !== schema.const) return wrong(`must be ${JSON.stringify(schema.const)}`);
  if (schema.enum && !schema.enum.includes(value)) return wrong(`must be one of ${schema.enum.join(", ")}`);
  const kinds = {
    null: value === null,
    boolean: typeof value === "boolean",
    string: typeof value === "string",
    number: typeof value === "number" && Number.isFinite(value),
    integer: Number.isInteger(value),
    array: Array.isArray(value),
    object: isObject(value) && !Array.isArray(value),
  };
  if (schema.type && !kinds[schema.type]) return wrong(`must be of type ${schema.type}`);
  if (kinds.number) {
    if (value < schema.minimum || value <= schema.exclusiveMinimum) return wrong("is too small");
    if (value > schema.maximum || value >= schema.exclusiveMaximum) return wrong("is too large");
  }
  if (kinds.string) {
    if (schema.pattern && !new RegExp(schema.pattern, "u").test(value)) return wrong("has not the right form");
    if (schema.format === "date-time" && Number.isNaN(Date.parse(value))) return wrong("is no time");
  }
  if (kinds.array) {
    if (value.length < schema.minItems || value.length > schema.maxItems) return wrong("has another number of items");
    for (const [at, item] of value.entries()) {
      const found = violation(item, schema.items ?? {}, root, place ? `${place}.${at}` : `${at}`);
      if (found) return found;
    }
  }
  if (kinds.object) {
    for (const name of schema.required ?? []) if (!(name in value)) return wrong(`${name} is missing`);
    for (const [name, item] of Object.entries(value)) {
      if (!Object.hasOwn(schema.properties ?? {}, name)) return wrong(`${name} is unknown`);
      const found = violation(item, schema.properties[name], root, place ? `${place}.${name}` : name);
      if (found) return found;
    }
  }
  return null;
}
