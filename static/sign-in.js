// The sign-in page of `sessiond dev`: takes any name, then goes back to where the person came from.
const field = document.querySelector('#name'), failure = document.querySelector('#failure');

/** The dashboard, or `return_to` if that is on this very server. */
function destination() {
	const home = new URL('../', document.baseURI), wish = new URLSearchParams(location.search).get('return_to');
	const url = wish && URL.canParse(wish, home) ? new URL(wish, home) : home;
	return url.origin === location.origin ? url : home;
}

async function signIn(name) {
	failure.textContent = '';
	try {
		const app = destination().searchParams.get('app'), headers = { 'Content-Type': 'application/json' };
		const response = await fetch(`../dev/sign-in${app ? `?app=${encodeURIComponent(app)}` : ''}`, { method: 'POST', headers, body: JSON.stringify({ name }) });
		if (response.ok) return location.assign(destination());
		const problem = await response.json();
		failure.textContent = problem.errors?.[0]?.message ?? problem.detail;
	} catch {
		failure.textContent = 'The server did not answer.';
	}
	field.focus();
}

document.addEventListener('submit', (event) => {
	event.preventDefault();
	if (field.value) signIn(field.value);
});
document.addEventListener('click', ({ target }) => target.dataset.name && signIn(target.dataset.name));
