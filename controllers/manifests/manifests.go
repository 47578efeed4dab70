// Package manifests reads a folder of YAML and JSON files as an API server
// would read them from kubectl apply: unknown fields are refused, defaults are
// filled in, and the CRDs' schemas and CEL rules hold. It knows the file and
// line of every object and field.
package manifests
