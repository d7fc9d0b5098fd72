// Package document reads what WeChat pushes: small documents in XML or JSON, with whatever users
// and companies wrote in them. It has no opinion on what a document should be. It tells what can be
// read without doubt, and what was odd.
//
// Nothing is expanded, obeyed or fetched. A document type is the one thing that makes it read
// nothing at all.
package document
