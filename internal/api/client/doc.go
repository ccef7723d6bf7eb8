// Package client is generated from openapi.yaml: the models and the HTTP client of the API. Never edited;
// `go generate ./internal/api/...` writes it anew. It does not import the server.
package client

//go:generate go tool -modfile=../../../tools/go.mod oapi-codegen -config config.yaml ../../../openapi.yaml
