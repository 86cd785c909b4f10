module silverback.example/bench/auth-request

go 1.21
