"""The real servers that the tests run against, each started and removed by the test run itself."""
