// Package conformance is one suite of tests for whatever claims to be an OpenStack cloud: it drives the calls that siestad
// makes, through its client, and asks in plain HTTP for the refusals that the client relies on.
//
// It runs against the simulated cloud in every test run and against real services in the lab, so that the one cannot drift
// from the other. It leaves nothing behind where it passes.
package conformance
