//go:build devtee

package main

const banner = "*** DEVELOPMENT BUILD: accepts a SIMULATED processor. Not for data that matters. ***"
