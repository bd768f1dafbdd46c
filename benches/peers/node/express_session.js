// express-session with a store, the first argument: "redis" (connect-redis) or "sqlite" (better-sqlite3-session-store).
//
// Both as their documentation shows them, with `resave: false` and `saveUninitialized: false`, which it recommends:
// https://www.npmjs.com/package/connect-redis, https://www.npmjs.com/package/better-sqlite3-session-store. Each request of a
// session touches the store, which is the default of both: an EXPIRE in Redis, an UPDATE in SQLite. NODE_ENV is production
// (https://expressjs.com/en/advanced/best-practice-performance.html). SQLite is in WAL mode
// (https://github.com/WiseLibs/better-sqlite3/blob/master/docs/performance.md) with synchronous = FULL, so that a session whose
// creation was answered survives a power loss, as sessiond's do.

import express from 'express'
import session from 'express-session'

const SEVEN_DAYS_MS = 7 * 86_400_000
const AT = '2026-01-01T00:00:00.000Z'

async function redisStore() {
  const { RedisStore } = await import('connect-redis')
  const { createClient } = await import('redis')
  const client = createClient({ url: process.env.REDIS_URL })
  await client.connect()
  return new RedisStore({ client })
}

async function sqliteStore() {
  const { default: Database } = await import('better-sqlite3')
  const { default: storeOf } = await import('better-sqlite3-session-store')
  const client = new Database(process.env.DATABASE)
  client.pragma('journal_mode = WAL')
  // Off only while sessions are seeded, which nobody measures.
  client.pragma(`synchronous = ${process.env.SYNCHRONOUS}`)
  const Store = storeOf(session)
  return new Store({ client, expired: { clear: true, intervalMs: 900_000 } })
}

// What is kept, and answered when it is checked: the 850 bytes that every peer keeps.
function sessionOf(signIn) {
  return {
    id: '01a1ffa1-53a4-730d-859f-5c1548f3b539',
    user_id: signIn.user_id,
    device_info: 'Firefox on Linux',
    ip_address: signIn.ip_address,
    location: 'DE',
    created_at: AT,
    last_activity_at: AT,
    expires_at: AT,
    is_revoked: false,
    is_current: true,
    app: 'default',
    status: 'active',
    name: null,
    is_trusted: false,
    device: {
      browser: 'Firefox', browser_version: '140.0', os: 'Linux', os_version: null, type: 'desktop', is_bot: false,
    },
    user_agent: signIn.user_agent,
    last_ip_address: null,
    place: { city: null, country: 'DE' },
    authenticated_at: AT,
    absolute_expires_at: AT,
    ended_at: null,
    revoked_reason: null,
    ended_by: null,
    auth: null,
    identities: {},
    client_session_id: null,
    data_version: 0,
  }
}

const stores = { redis: redisStore, sqlite: sqliteStore }
const app = express()
app.use(session({
  store: await stores[process.argv[2]](),
  secret: process.env.SECRET,
  resave: false,
  saveUninitialized: false,
  cookie: { maxAge: SEVEN_DAYS_MS },
}))

app.get('/session', (request, response) => {
  if (!request.session.session) return response.sendStatus(401)
  response.json(request.session.session)
})

app.post('/session', express.json(), (request, response) => {
  request.session.session = sessionOf(request.body)
  response.sendStatus(201)
})

app.delete('/session', (request, response, next) => {
  if (!request.session.session) return response.sendStatus(401)
  request.session.destroy((error) => (error ? next(error) : response.sendStatus(204)))
})

const server = app.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`))
