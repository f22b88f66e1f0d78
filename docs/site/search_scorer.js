// What a user looks for stands in pages of help first, in logs and measurements last.
var HELP = /^docs\/(troubleshooting|faq|coming-from|glossary)$/;
var RECORDS = /^(benchmarks|docs\/decisions|docs\/papers)\/|^(docs\/log|CHANGELOG|docs\/architecture)$/;

// The numbers are Sphinx's own
var Scorer = {
  score: function (result) {
    var page = result[0], score = result[4];
    return score + (HELP.test(page) ? 40 : RECORDS.test(page) ? -40 : 0);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
