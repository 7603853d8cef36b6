// Package stepca is the only importer of smallstep/certificates and go.step.sm/crypto. It gives package ca its
// Signer (softcas), its NamePolicy (policy) and its keys (kms), and performs the key ceremony.
//
// What is fenced here, because the libraries leave it open: softcas has a clock of its own that is used when
// a template has no dates; the policy engine permits what no rule mentions; pemutil panics on a damaged key
// file. Nothing in this package makes a template from a certificate request.
package stepca
