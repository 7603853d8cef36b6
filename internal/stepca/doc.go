// Package stepca is the only importer of smallstep/certificates and go.step.sm/crypto. It gives package ca its
// NamePolicy (policy), its keys (kms) and a Signer over them, and performs the key ceremony.
//
// What is fenced here, because the libraries leave it open: the policy engine permits what no rule mentions, and
// pemutil panics on a damaged key file. What a certificate of a client says, package ca writes.
package stepca
