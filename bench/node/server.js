// An authorization server of oidc-provider: node server.js PORT CERTIFICATE KEY CA CLIENTS
// It binds tokens to certificates (clients client-00000000 and up), or to DPoP keys (client "dpop"). Tokens are
// opaque, or JWTs where the request names a resource. The store is the memory of the process.
import { createServer } from 'node:https';
import { readFileSync } from 'node:fs';
import { generateKeyPairSync } from 'node:crypto';
import { Provider } from 'oidc-provider';

const [port, cert, key, ca, count] = process.argv.slice(2);
const issuer = `https://127.0.0.1:${port}`;
const base = { id_token_signed_response_alg: 'ES256', grant_types: ['client_credentials'], redirect_uris: [], response_types: [] };
const clients = [
  { ...base, client_id: 'dpop', client_secret: 'bench-secret', dpop_bound_access_tokens: true },
  { ...base, client_id: 'rs', client_secret: 'bench-secret' },
];
for (let i = 0; i < Number(count); i += 1) {
  const name = `client-${String(i).padStart(8, '0')}`;
  clients.push({
    ...base,
    client_id: name,
    token_endpoint_auth_method: 'tls_client_auth',
    tls_client_auth_subject_dn: `CN=${name}`,
    tls_client_certificate_bound_access_tokens: true,
  });
}
const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });

const provider = new Provider(issuer, {
  clients,
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig', kid: 'bench' }] },
  clientAuthMethods: ['client_secret_basic', 'tls_client_auth'],
  enabledJWA: { dPoPSigningAlgValues: ['ES256'] },
  ttl: { ClientCredentials: 300 },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    dPoP: { enabled: true },
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      tlsClientAuth: true,
      getCertificate: (ctx) => ctx.socket.getPeerX509Certificate(),
      certificateAuthorized: (ctx) => ctx.socket.authorized,
      certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_subject_dn'
        && ctx.socket.getPeerX509Certificate().subject === expected,
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      getResourceServerInfo: () => ({
        scope: '',
        audience: 'urn:bench',
        accessTokenTTL: 300,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'ES256' } },
      }),
    },
  },
});
provider.on('server_error', (ctx, err) => console.error(err));

createServer({
  cert: readFileSync(cert),
  key: readFileSync(key),
  ca: readFileSync(ca),
  requestCert: true,
  rejectUnauthorized: false,
  keepAliveTimeout: 600_000,
}, provider.callback()).listen(Number(port), '127.0.0.1');
