// The API reference, made in the browser from openapi.json: a table of contents by tag, each operation with its
// parameters, bodies, answers and a curl line, then the schemas. Nothing is loaded from elsewhere.
import { element, exampleOf, markdown, resolve, schemaId, schemaView, table, typeOf, useDocument } from './docs-schema.js';

const METHODS = ['get', 'head', 'post', 'put', 'patch', 'delete', 'options', 'trace'];
const $ = (selector) => document.querySelector(selector);
const isNarrow = matchMedia('(max-width: 60rem)');
const entries = []; // what the search goes through: { words, section, item }

async function start() {
	const response = await fetch('openapi.json', { headers: { Accept: 'application/json' } });
	if (!response.ok) throw new Error(`openapi.json answered ${response.status}.`);
	const api = await response.json();
	useDocument(api);
	$('#version').textContent = api.info?.version ?? '';
	$('#title').textContent = api.info?.title ? `${api.info.title} API` : 'API reference';
	document.title = $('#title').textContent;
	$('#intro').append(...markdown(api.info?.description ?? ''), ...credentials(api));
	for (const { name, description, operations } of byTag(api)) {
		$('#reference').append(element('section', { className: 'tag', attributes: { 'aria-labelledby': `tag-${slug(name)}` } },
			element('h2', { id: `tag-${slug(name)}` }, name), markdown(description ?? ''),
			operations.map((operation) => operationView(api, operation))));
		addContents(`tag-${slug(name)}`, name, operations.map((operation) => [operation.id, operation.method, operation.path]));
	}
	const schemas = Object.entries(api.components?.schemas ?? {});
	if (schemas.length) {
		$('#reference').append(element('section', { className: 'tag', attributes: { 'aria-labelledby': 'schemas' } },
			element('h2', { id: 'schemas' }, 'Schemas'), schemas.map(([name, schema]) => schemaSection(name, schema))));
		addContents('schemas', 'Schemas', schemas.map(([name]) => [schemaId(name), '', name]));
	}
	link();
}

const slug = (name) => name.toLowerCase().replace(/[^a-z0-9]+/g, '-');

/** Operations by tag, in the order of the document's tags, then of first use. */
function byTag(api) {
	const tags = new Map((api.tags ?? []).map(({ name, description }) => [name, { name, description, operations: [] }]));
	for (const [path, item] of Object.entries(api.paths ?? {})) {
		for (const method of METHODS.filter((one) => item[one])) {
			const details = item[method], name = details.tags?.[0] ?? 'Other';
			if (!tags.has(name)) tags.set(name, { name, operations: [] });
			tags.get(name).operations.push({
				...details, path, method,
				id: details.operationId ?? slug(`${method} ${path}`),
				summary: (details.summary ?? details.description?.split('\n')[0] ?? details.operationId ?? path).replace(/\.$/, ''),
				parameters: [...(item.parameters ?? []), ...(details.parameters ?? [])].map(resolve),
			});
		}
	}
	return [...tags.values()].filter(({ operations }) => operations.length);
}

function credentials(api) {
	const schemes = Object.entries(api.components?.securitySchemes ?? {}).map(([name, scheme]) => [name, resolve(scheme)]);
	if (!schemes.length) return [];
	return [element('h2', { id: 'credentials' }, 'Credentials'), element('dl', {}, schemes.map(([name, scheme]) => element('div', {},
		element('dt', {}, element('code', {}, name)),
		element('dd', {}, element('p', {}, element('code', {}, credentialLine(scheme))), markdown(scheme.description ?? '')))))];
}

const credentialLine = (scheme) => (scheme.type === 'http' ? `Authorization: ${scheme.scheme === 'bearer' ? 'Bearer' : 'Basic'} …`
	: scheme.in === 'cookie' ? `Cookie: ${scheme.name}=…` : `${scheme.name}: …`);

function operationView(api, operation) {
	const security = operation.security ?? api.security ?? [];
	const names = [...new Set(security.flatMap((one) => Object.keys(one)))];
	const body = operation.requestBody && resolve(operation.requestBody);
	const id = operation.id;
	const section = element('section', { className: 'operation', id, tabIndex: -1, attributes: { 'aria-labelledby': `${id}-title` } },
		element('h3', { id: `${id}-title` }, element('a', { href: `#${id}` }, operation.summary)),
		element('p', { className: 'call' }, methodView(operation.method), ' ', element('code', {}, operation.path)),
		operation.deprecated ? element('p', { className: 'note' }, 'Deprecated.') : '',
		operation.description && operation.description !== operation.summary ? markdown(operation.description) : '',
		element('p', { className: 'note' }, names.length ? ['Credential: ', ...names.flatMap((name, i) => [i ? ' or ' : '', element('code', {}, name)])] : 'No credential.',
			security.some((one) => !Object.keys(one).length) && names.length ? ' (optional)' : ''),
		operation.parameters.length ? [element('h4', {}, 'Parameters'), table(`Parameters of ${operation.summary}`,
			operation.parameters.map((one) => [one.name, one.schema ?? {}, one.required, one.description, one.in]))] : '',
		bodyView('Request body', body, operation.summary),
		element('h4', {}, 'Example'), curlView(api, operation, body, security),
		element('h4', {}, 'Answers'), Object.entries(operation.responses ?? {}).map(([status, answer]) => answerView(status, resolve(answer), operation)));
	entries.push({ section, words: [operation.method, operation.path, operation.summary, id, operation.description, operation.tags].flat().join(' ').toLowerCase() });
	return section;
}

const methodView = (method) => element('span', { className: 'method', dataset: { method } }, method.toUpperCase());

function bodyView(title, body, about) {
	return Object.entries(body?.content ?? {}).flatMap(([media, { schema }]) => [
		element('h4', {}, title, ' ', element('span', { className: 'note' }, media, body.required === false ? ', optional' : '')),
		...markdown(body.description ?? ''), ...schemaView(schema ?? {}, `${title} of ${about}`)]);
}

function answerView(status, answer, operation) {
	const contents = Object.entries(answer.content ?? {}), headers = Object.entries(answer.headers ?? {});
	const head = [element('span', { className: 'status', dataset: { class: status[0] } }, status), ' ',
		element('span', {}, inlineOf(answer.description))];
	if (!contents.length && !headers.length) return element('p', { className: 'answer' }, head);
	return element('details', { className: 'answer' }, element('summary', {}, head),
		headers.length ? table(`Headers of ${status}`, headers.map(([name, header]) => [name, resolve(header).schema ?? {}, false, resolve(header).description])) : '',
		contents.map(([media, { schema, example }]) => [
			element('p', { className: 'note' }, media), schemaView(schema ?? {}, `${status} of ${operation.summary}`),
			media.includes('json') && schema ? codeView(JSON.stringify(example ?? exampleOf(schema), null, 2), `Example of ${status}, ${operation.summary}`) : '']));
}

const inlineOf = (text) => markdown(text ?? '').flatMap((block) => [...block.childNodes]);

/** A line to copy: required parameters and an example body, the first credential that is named. */
function curlView(api, operation, body, security) {
	const base = new URL(api.servers?.[0]?.url ?? '.', document.baseURI).href.replace(/\/$/, '');
	const value = (one) => String(one.example ?? exampleOf(one.schema ?? {}));
	const path = operation.path.replace(/\{([^}]+)\}/g, (whole, name) => {
		const one = operation.parameters.find((parameter) => parameter.in === 'path' && parameter.name === name);
		return one && value(one) !== 'string' ? encodeURIComponent(value(one)) : name.toUpperCase();
	});
	const query = operation.parameters.filter((one) => one.in === 'query' && one.required)
		.map((one) => `${one.name}=${encodeURIComponent(value(one))}`).join('&');
	const lines = [`curl ${{ get: '', head: '-I ' }[operation.method] ?? `-X ${operation.method.toUpperCase()} `}'${base}${path}${query && `?${query}`}'`];
	const name = Object.keys(security[0] ?? {})[0], scheme = name && resolve(api.components?.securitySchemes?.[name]);
	const secret = name && `$${name.replace(/[^a-z0-9]+/gi, '_').toUpperCase()}`;
	if (scheme?.type === 'http') lines.push(`-H "Authorization: Bearer ${secret}"`);
	else if (scheme?.in === 'cookie') lines.push(`-b "${scheme.name}=${secret}"`);
	else if (scheme?.in === 'header') lines.push(`-H "${scheme.name}: ${secret}"`);
	const [media, content] = Object.entries(body?.content ?? {})[0] ?? [];
	if (media) {
		const example = JSON.stringify(content.example ?? exampleOf(content.schema ?? {}), null, 2).replaceAll("'", "'\\''");
		lines.push(`-H 'Content-Type: ${media}'`, `-d '${example}'`);
	}
	return codeView(lines.join(' \\\n  '), `curl for ${operation.summary}`, true);
}

function codeView(text, label, canCopy = false) {
	const pre = element('pre', { tabIndex: 0, attributes: { role: 'region', 'aria-label': label } }, element('code', {}, text));
	if (!canCopy || !navigator.clipboard) return pre;
	const button = element('button', { type: 'button', className: 'copy', attributes: { 'aria-label': `Copy ${label}` } }, 'Copy');
	button.addEventListener('click', async () => {
		await navigator.clipboard.writeText(text);
		button.textContent = $('#found').textContent = 'Copied';
		setTimeout(() => { button.textContent = 'Copy'; }, 2000);
	});
	return element('div', { className: 'code' }, pre, button);
}

function schemaSection(name, schema) {
	const { $ref, ...rest } = schema;
	const section = element('section', { className: 'operation', id: schemaId(name), tabIndex: -1, attributes: { 'aria-labelledby': `${schemaId(name)}-title` } },
		element('h3', { id: `${schemaId(name)}-title` }, element('a', { href: `#${schemaId(name)}` }, name)),
		markdown(schema.description ?? ''), $ref ? element('p', {}, typeOf(schema)) : schemaView(rest, `Properties of ${name}`));
	entries.push({ section, words: `${name} ${schema.description ?? ''} ${Object.keys(schema.properties ?? {}).join(' ')}`.toLowerCase() });
	return section;
}

function addContents(id, title, items) {
	$('#toc').append(element('section', {}, element('h2', {}, element('a', { href: `#${id}` }, title)),
		element('ul', {}, items.map(([target, method, name]) => {
			const item = element('li', {}, element('a', { href: `#${target}` }, method ? [methodView(method), ' '] : '', element('span', {}, name)));
			entries.find(({ section }) => section.id === target).item = item;
			return item;
		}))));
}

function search() {
	const wanted = $('#search').value.trim().toLowerCase().split(/\s+/).filter(Boolean);
	let count = 0;
	for (const { words, section, item } of entries) {
		const isFound = wanted.every((word) => words.includes(word));
		section.hidden = item.hidden = !isFound;
		count += isFound;
	}
	for (const group of document.querySelectorAll('.tag, #toc > section')) {
		group.hidden = wanted.length > 0 && ![...group.querySelectorAll('.operation, li')].some((one) => one.hasAttribute('hidden') === false && one.matches('.operation, #toc li'));
	}
	$('#intro').hidden = wanted.length > 0;
	$('#found').textContent = wanted.length ? (count ? `${count} found` : 'Nothing found') : '';
}

/** Once everything stands: the search, and the place the address names. */
function link() {
	document.body.dataset.state = 'ready';
	$('#main').setAttribute('aria-busy', 'false');
	$('#contents').open = !isNarrow.matches;
	$('#search').addEventListener('input', search);
	$('#toc').addEventListener('click', (event) => {
		if (event.target.closest('a') && isNarrow.matches) $('#contents').open = false;
	});
	const go = () => {
		const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
		if (target?.closest('[hidden]')) {
			$('#search').value = '';
			search();
		}
		target?.scrollIntoView();
	};
	addEventListener('hashchange', go);
	if (location.hash) go();
}

start().catch((error) => {
	document.body.dataset.state = 'error';
	$('#main').setAttribute('aria-busy', 'false');
	$('#intro').replaceChildren(element('p', { attributes: { role: 'alert' } }, `The reference could not be loaded. ${error.message}`));
});
