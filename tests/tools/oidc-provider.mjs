// oidc-provider.mjs -- a certified authorization server on loopback, for client credentials only.
//
// Standard input may hold one line of JSON first: { "jwks": { "keys": [...] } } for the client `keyed`. Prints
// `ready http://127.0.0.1:PORT` when it listens; ends when its standard input closes.
// Clients: `basic`, `post`, `hmac` (client_secret_jwt) with the secret below, `keyed` (private_key_jwt).
import { createRequire } from 'node:module';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { fileURLToPath, pathToFileURL } from 'node:url';

const installed = fileURLToPath(new URL('../../target/tools/node/', import.meta.url));
const { default: Provider } = await import(pathToFileURL(createRequire(installed).resolve('oidc-provider')));

// Characters that a form must encode: a client that does not is refused. 32 bytes at least, for HS256.
const SECRET = 'a+b%:/= &"-made-up-secret-of-forty-bytes';

let given = {};
const lines = createInterface({ input: process.stdin });
lines.on('close', () => process.exit(0));
if (process.argv.includes('--stdin')) {
  given = JSON.parse(await new Promise((resolve) => lines.once('line', resolve)));
}

const client = (id, method, more) => ({
  client_id: id,
  token_endpoint_auth_method: method,
  grant_types: ['client_credentials'],
  response_types: [],
  redirect_uris: [],
  scope: 'read write',
  ...more,
});

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      client('basic', 'client_secret_basic', { client_secret: SECRET }),
      client('post', 'client_secret_post', { client_secret: SECRET }),
      client('hmac', 'client_secret_jwt', { client_secret: SECRET, token_endpoint_auth_signing_alg: 'HS256' }),
      ...(given.jwks ? [client('keyed', 'private_key_jwt', { jwks: given.jwks, token_endpoint_auth_signing_alg: given.alg ?? 'RS256' })] : []),
    ],
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt'],
    enabledJWA: { clientAuthSigningAlgValues: ['HS256', 'RS256', 'PS256', 'ES256', 'Ed25519', 'EdDSA'] },
    scopes: ['read', 'write'],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: { enabled: true, allowedPolicy: () => true },
    },
    ttl: { ClientCredentials: Number(given.ttl ?? 600) },
  });
  provider.on('server_error', (ctx, error) => console.error(error));
  server.on('request', provider.callback());
  console.log(`ready ${issuer}`);
});
