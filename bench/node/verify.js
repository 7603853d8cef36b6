// jose verifies the tokens of a file, and tells how many a second: node verify.js FILE bound|dpop
// The better of one after the other, and 32 at once, counts.
import { readFileSync } from 'node:fs';
import { createHash, X509Certificate } from 'node:crypto';
import { jwtVerify, importJWK, EmbeddedJWK, calculateJwkThumbprint } from 'jose';

const {
  jwk, cert, issuer, audience, url, bound, dpop, proofs,
} = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const key = await importJWK(jwk, 'ES256');
const raw = new X509Certificate(Buffer.from(cert, 'base64')).raw;
const options = { issuer, audience, algorithms: ['ES256'], typ: 'at+jwt', clockTolerance: 10 };
const sha256 = (data) => createHash('sha256').update(data).digest('base64url');

async function verifyBound(i) {
  const { payload } = await jwtVerify(bound[i], key, options);
  if (payload.cnf['x5t#S256'] !== sha256(raw)) throw new Error('not bound to this certificate');
}

const seen = new Set();
async function verifyDPoP(i) {
  const { payload } = await jwtVerify(dpop[i], key, options);
  const { payload: p, protectedHeader } = await jwtVerify(proofs[i], EmbeddedJWK, { typ: 'dpop+jwt', algorithms: ['ES256'], maxTokenAge: 60 });
  const jkt = await calculateJwkThumbprint(protectedHeader.jwk);
  if (payload.cnf.jkt !== jkt || p.htm !== 'GET' || p.htu !== url || p.ath !== sha256(dpop[i]) || seen.has(p.jti)) throw new Error('bad proof');
  seen.add(p.jti);
}

// rate verifies a part of the list, some at once, after a warm-up.
async function rate(verify, from, to, atOnce) {
  let next = from;
  const start = process.hrtime.bigint();
  await Promise.all(Array.from({ length: atOnce }, async () => {
    while (next < to) await verify(next++); // eslint-disable-line no-await-in-loop
  }));
  return ((to - from) * 1e9) / Number(process.hrtime.bigint() - start);
}

async function best(verify, n) {
  const part = Math.floor(n / 4);
  await rate(verify, 0, part, 32);
  const single = await rate(verify, part, 2 * part, 1);
  return Math.max(single, await rate(verify, 2 * part, n, 32));
}

console.log(await (process.argv[3] === 'dpop' ? best(verifyDPoP, dpop.length) : best(verifyBound, bound.length)));
