// Package lint runs zlint over everything that pkid signs: the certificates of every built-in profile with every
// type of key, the CAs' own, and the CRLs. It is a module of its own, so that zlint's weight and its pins stay
// out of the product.
package lint
