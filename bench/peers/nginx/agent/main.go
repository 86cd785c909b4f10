// The service that nginx asks about each request (auth_request): it reads one header of the request N times and answers with the
// header x-bench, which nginx puts into its own answer.
//
//	agent SOCKET N
package main

import (
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: agent SOCKET N")
	}
	calls, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, asked(calls)))
}

func asked(calls int) http.HandlerFunc {
	value := strconv.Itoa(calls)
	return func(answer http.ResponseWriter, request *http.Request) {
		for i := 0; i < calls; i++ {
			_ = request.Header.Get("User-Agent")
		}
		answer.Header().Set("X-Bench", value)
	}
}
