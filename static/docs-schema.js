// How JSON schemas (as OpenAPI 3.1 has them) and the Markdown of descriptions become elements.
// Everything is set as text; a link gets its address only if that is http(s) or within this page.

export function element(tag, properties = {}, ...children) {
	const { dataset, attributes = {}, ...rest } = properties;
	const made = Object.assign(document.createElement(tag), rest);
	Object.assign(made.dataset, dataset);
	for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
	made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ''));
	return made;
}

export const schemaId = (name) => `schema-${name}`;
const nameOf = (ref) => ref.slice(ref.lastIndexOf('/') + 1);
let root = {};
export const useDocument = (document) => { root = document; };

/** Follows `$ref`s inside the document. */
export function resolve(thing) {
	for (let steps = 0; thing?.$ref && steps < 20; steps += 1) {
		const path = thing.$ref.replace(/^#\//, '').split('/').map((part) => part.replace(/~1/g, '/').replace(/~0/g, '~'));
		thing = path.reduce((at, part) => at?.[part], root);
	}
	return thing ?? {};
}

/** The type in words, with links to named schemas: "array of Session or null". */
export function typeOf(schema) {
	if (schema === true || !schema) return ['any'];
	if (schema.$ref) return [element('a', { href: `#${schemaId(nameOf(schema.$ref))}` }, nameOf(schema.$ref))];
	const options = schema.oneOf ?? schema.anyOf;
	if (options) return options.flatMap((option, i) => (i ? [' or ', ...typeOf(option)] : typeOf(option)));
	if (schema.allOf?.length === 1) return typeOf(schema.allOf[0]);
	if (schema.allOf) return schema.allOf.flatMap((part, i) => (i ? [' and ', ...typeOf(part)] : typeOf(part)));
	if ('const' in schema) return [element('code', {}, JSON.stringify(schema.const))];
	if (schema.enum) return schema.enum.flatMap((value, i) => [i ? ' | ' : '', element('code', {}, JSON.stringify(value))]);
	const types = [schema.type ?? (schema.properties ? 'object' : 'any')].flat();
	return types.flatMap((type, i) => {
		const words = type === 'array' ? ['array of ', ...typeOf(schema.items)]
			: type === 'object' && typeof schema.additionalProperties === 'object' && !schema.properties
				? ['map of ', ...typeOf(schema.additionalProperties)]
				: [type + (schema.format && type !== 'null' ? ` (${schema.format})` : '')];
		return i ? [' or ', ...words] : words;
	});
}

/** Bounds and default, as a short sentence; empty if there are none. */
function boundsOf(schema) {
	const said = [];
	const between = (least, most, what) => {
		if (least !== undefined && most !== undefined) said.push(`${least} to ${most}${what}`);
		else if (least !== undefined) said.push(`at least ${least}${what}`);
		else if (most !== undefined) said.push(`at most ${most}${what}`);
	};
	between(schema.minimum, schema.maximum, '');
	between(schema.minLength, schema.maxLength, ' characters');
	between(schema.minItems, schema.maxItems, ' items');
	if (schema.pattern) said.push(`matches ${schema.pattern}`);
	if (schema.default !== undefined) said.push(`default ${JSON.stringify(schema.default)}`);
	return said.join('; ');
}

/** All properties of an object schema, those of its `allOf` parts included, or null if it has none. */
function propertiesOf(schema) {
	const real = resolve(schema);
	const parts = [real, ...(real.allOf ?? []).map(resolve)];
	const properties = Object.assign({}, ...parts.map((part) => part.properties));
	return Object.keys(properties).length ? { properties, required: parts.flatMap((part) => part.required ?? []) } : null;
}

/** Rows of name, type, meaning as a table; `rows` are `[name, schema, isRequired, description, note]`. */
export function table(caption, rows) {
	return element('table', {},
		element('caption', { className: 'unseen' }, caption),
		element('thead', {}, element('tr', {}, ...['Name', 'Type', 'Meaning'].map((head) => element('th', { scope: 'col' }, head)))),
		element('tbody', {}, rows.map(([name, schema, isRequired, description, note]) => element('tr', {},
			element('th', { scope: 'row' }, element('code', {}, name),
				isRequired ? element('span', { className: 'required' }, ' required') : '', note ? element('span', { className: 'note' }, ` ${note}`) : ''),
			element('td', {}, typeOf(schema)),
			element('td', {}, markdown(description ?? schema?.description ?? ''), boundsOf(schema ?? {}) && element('p', { className: 'note' }, boundsOf(schema)))))));
}

/** A schema as a table of its properties, or its type in words if it has none. */
export function schemaView(schema, caption) {
	const list = schema?.type === 'array' ? propertiesOf(schema.items) : null;
	const found = list ?? propertiesOf(schema);
	const type = element('p', { className: 'type' }, typeOf(schema?.$ref ? schema : { ...schema, description: undefined }));
	if (!found) return [type];
	const rows = Object.entries(found.properties).map(([name, property]) => [name, property, found.required.includes(name)]);
	return [schema.$ref || list ? type : '', table(caption, rows)];
}

/** An example of a schema: the given one, else one made up from types and formats. */
export function exampleOf(schema, depth = 0) {
	const given = schema?.example ?? schema?.examples?.[0];
	if (given !== undefined) return given;
	const real = resolve(schema);
	if (real !== schema && (real.example ?? real.examples?.[0]) !== undefined) return real.example ?? real.examples[0];
	if (real.default !== undefined) return real.default;
	if ('const' in real) return real.const;
	if (real.enum) return real.enum[0];
	const option = (real.oneOf ?? real.anyOf)?.find((one) => one.type !== 'null');
	if (option) return exampleOf(option, depth + 1);
	const found = propertiesOf(real);
	if (found) {
		if (depth > 4) return {};
		const entries = Object.entries(found.properties);
		const needed = entries.filter(([name, { example, examples }]) => found.required.includes(name) || (example ?? examples) !== undefined);
		return Object.fromEntries((needed.length ? needed : entries.slice(0, 2)).map(([name, property]) => [name, exampleOf(property, depth + 1)]));
	}
	const type = [real.type].flat().find((one) => one !== 'null');
	if (type === 'array') return depth > 4 ? [] : [exampleOf(real.items, depth + 1)];
	const byFormat = { 'date-time': '2026-01-31T12:00:00.000Z', uuid: '0192f0c4-5d1e-7c3a-9b2f-3d1c5e7a9b01', ipv4: '203.0.113.7', ip: '203.0.113.7', uri: 'https://app.example/sign-in' };
	return { string: byFormat[real.format] ?? 'string', integer: real.minimum ?? 1, number: real.minimum ?? 1, boolean: true }[type] ?? {};
}

/** The little Markdown that doc comments use: paragraphs, lists, headings, code, bold, emphasis, links. */
export function markdown(source) {
	const blocks = source.trim().split(/(```[\s\S]*?```)|\n\s*\n/).filter((block) => block?.trim());
	return blocks.map((block) => {
		const text = block.trim();
		const fence = text.match(/^```.*\n([\s\S]*?)\n?```$/);
		if (fence) return element('pre', { tabIndex: 0 }, element('code', {}, fence[1]));
		if (/^#+ /.test(text)) return element('p', {}, element('strong', {}, text.replace(/^#+ /, '')));
		if (/^[-*] /.test(text)) return element('ul', {}, text.split(/\n(?=[-*] )/).map((item) => element('li', {}, inline(item.slice(2)))));
		return element('p', {}, inline(text));
	});
}

function inline(text) {
	return text.split(/(`[^`]+`|\*\*[^*]+\*\*|\*[^*\s][^*]*\*|\[[^\]]+\]\([^)\s]+\))/).map((piece) => {
		if (/^`.+`$/.test(piece)) return element('code', {}, piece.slice(1, -1));
		if (/^\*\*.+\*\*$/.test(piece)) return element('strong', {}, piece.slice(2, -2));
		if (/^\*.+\*$/.test(piece)) return element('em', {}, piece.slice(1, -1));
		const link = piece.match(/^\[(.+)\]\((.+)\)$/);
		return link && /^(https?:|#)/.test(link[2]) ? element('a', { href: link[2] }, link[1]) : link ? link[1] : piece;
	});
}
