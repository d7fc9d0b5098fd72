// Package document reads what WeChat pushes: small documents in XML or JSON, with whatever users
// and companies wrote in them. It does not judge what a document should contain. It tells what can
// be read beyond doubt, and what was odd.
//
// It expands no entities, follows no instructions and fetches nothing. A document with a document
// type is not read at all.
package document
