// Command demo is a small service that answers with what reached it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/headgate/headgate/hack/quickstart/shop"
)

func main() {
	log.SetFlags(0)
	name := flag.String("name", "demo", "what the instance calls itself")
	listen := flag.String("listen", "127.0.0.1:0", "the `address` to listen at; it is printed")
	attached := flag.Bool("attached", false, "end when standard input does")
	flag.Parse()

	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(l.Addr())
	server := &http.Server{Handler: shop.Demo(*name), ReadHeaderTimeout: 10 * time.Second}
	if *attached {
		go func() {
			io.Copy(io.Discard, os.Stdin)
			server.Close()
		}()
	}
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}
