// Package gen is generated from openapi.yaml: the models, the chi routes and the strict server interface that package
// api implements. Never edited; `go generate ./internal/api/...` writes it anew.
package gen

//go:generate go tool -modfile=../../../tools/go.mod oapi-codegen -config config.yaml ../../../openapi.yaml
