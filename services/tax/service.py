"""The tax contract: parse, call, render."""

from kit.clock import Clock
from kit.idempotency import Once, fingerprint
from kit.paging import page_size
from kit.rpc.auth import caller
from kit.rpc.methods import Context
from services.tax.convert import exchange, fields, registrations, supplies, uploads
from services.tax.exchange import Conversion
from services.tax.model import SellerSettings, Supply
from services.tax.usecases.exchange import ExchangeUseCases
from services.tax.usecases.tax_ids import TaxIdUseCases
from services.tax.usecases.taxes import PutRegistration, TaxUseCases
from tollkeeper.api.tax.v1 import tax_service_pb2 as pb

_RATES_PAGE_SIZE = 100


class TaxService:
    """Serves `tollkeeper.api.tax.v1.TaxService`."""

    def __init__(
        self,
        taxes: TaxUseCases,
        exchange_: ExchangeUseCases,
        tax_ids: TaxIdUseCases,
        clock: Clock,
    ) -> None:
        self._use_cases = taxes
        self._tax_ids = tax_ids
        self._exchange = exchange_
        self._clock = clock

    async def DetermineTax(
        self, request: pb.DetermineTaxRequest, context: Context
    ) -> pb.DetermineTaxResponse:
        supply = supplies.parse_supply(request)
        determined = await self._use_cases.determine(
            caller(context).tenant, supply, self._clock.now().date()
        )
        return pb.DetermineTaxResponse(determination=supplies.render_determination(determined))

    async def BatchDetermineTax(
        self, request: pb.BatchDetermineTaxRequest, context: Context
    ) -> pb.BatchDetermineTaxResponse:
        parsed = supplies.parse_batch(request)
        readable = [each for each in parsed if isinstance(each, Supply)]
        determined = iter(
            await self._use_cases.determine_each(
                caller(context).tenant, readable, self._clock.now().date()
            )
        )
        return supplies.render_batch(
            [next(determined) if isinstance(each, Supply) else each for each in parsed]
        )

    async def ValidateTaxId(
        self, request: pb.ValidateTaxIdRequest, context: Context
    ) -> pb.ValidateTaxIdResponse:
        tax_id = fields.parse_tax_id(request.tax_id, "tax_id")
        found = await self._tax_ids.validate(
            caller(context).tenant, tax_id, confirm=request.confirm, now=self._clock.now()
        )
        return registrations.render_checked_tax_id(found.checked, found.unconfirmed_reason)

    async def PutRegistration(
        self, request: pb.PutRegistrationRequest, context: Context
    ) -> pb.PutRegistrationResponse:
        registration = registrations.parse_put_registration(request)
        once = Once(
            request_id=request.request_id,
            method="PutRegistration",
            fingerprint=fingerprint(request),
            answer_type=pb.PutRegistrationResponse,
            render=_render_put,
            now=self._clock.now(),
        )
        return await self._use_cases.put_registration(caller(context).tenant, registration, once)

    async def ListRegistrations(
        self, request: pb.ListRegistrationsRequest, context: Context
    ) -> pb.ListRegistrationsResponse:
        page = await self._use_cases.list_registrations(
            caller(context).tenant, page_size(request.page_size), request.page_token
        )
        return pb.ListRegistrationsResponse(
            registrations=[registrations.render_registration(*item) for item in page.items],
            next_page_token=page.next_page_token,
        )

    async def ListRates(
        self, request: pb.ListRatesRequest, _context: Context
    ) -> pb.ListRatesResponse:
        country, day = registrations.parse_rates_filter(request)
        size = page_size(request.page_size, default=_RATES_PAGE_SIZE)
        page = self._use_cases.list_rates(country, day, size, request.page_token)
        return pb.ListRatesResponse(
            rates=map(registrations.render_rate, page.items), next_page_token=page.next_page_token
        )

    async def PutUploadedRates(
        self, request: pb.PutUploadedRatesRequest, context: Context
    ) -> pb.PutUploadedRatesResponse:
        rates = uploads.parse_uploads(request)
        once = Once(
            request_id=request.request_id,
            method="PutUploadedRates",
            fingerprint=fingerprint(request),
            answer_type=pb.PutUploadedRatesResponse,
            render=_render_upload_count,
            now=self._clock.now(),
        )
        return await self._use_cases.put_uploaded_rates(caller(context).tenant, rates, once)

    async def ListUploadedRates(
        self, request: pb.ListUploadedRatesRequest, context: Context
    ) -> pb.ListUploadedRatesResponse:
        size = page_size(request.page_size, default=_RATES_PAGE_SIZE)
        page = await self._use_cases.list_uploaded_rates(
            caller(context).tenant, size, request.page_token
        )
        return pb.ListUploadedRatesResponse(
            rates=map(uploads.render_upload, page.items), next_page_token=page.next_page_token
        )

    async def GetExchangeRate(
        self, request: pb.GetExchangeRateRequest, context: Context
    ) -> pb.GetExchangeRateResponse:
        pair = exchange.parse_currency_pair(request)
        rate = await self._exchange.exchange_rate(caller(context).tenant, *pair)
        return pb.GetExchangeRateResponse(rate=exchange.render_exchange_rate(rate))

    async def ConvertMoney(
        self, request: pb.ConvertMoneyRequest, context: Context
    ) -> pb.ConvertMoneyResponse:
        conversion = exchange.parse_conversion(request)
        converted = await self._exchange.convert(caller(context).tenant, conversion)
        return exchange.render_conversion(*converted)

    async def BatchConvert(
        self, request: pb.BatchConvertRequest, context: Context
    ) -> pb.BatchConvertResponse:
        parsed = exchange.parse_conversions(request)
        readable = [each for each in parsed if isinstance(each, Conversion)]
        converted = iter(await self._exchange.convert_each(caller(context).tenant, readable))
        return exchange.render_conversions(
            [next(converted) if isinstance(each, Conversion) else each for each in parsed]
        )

    async def GetExchangeDifference(
        self, request: pb.GetExchangeDifferenceRequest, context: Context
    ) -> pb.GetExchangeDifferenceResponse:
        asked = exchange.parse_difference(request)
        found = await self._exchange.exchange_difference(caller(context).tenant, asked)
        return exchange.render_difference(found)

    async def GetTaxSettings(
        self, _request: pb.GetTaxSettingsRequest, context: Context
    ) -> pb.GetTaxSettingsResponse:
        settings = await self._exchange.get_settings(caller(context).tenant)
        return pb.GetTaxSettingsResponse(settings=exchange.render_settings(settings))

    async def PutTaxSettings(
        self, request: pb.PutTaxSettingsRequest, context: Context
    ) -> pb.PutTaxSettingsResponse:
        settings = exchange.parse_put_settings(request)
        once = Once(
            request_id=request.request_id,
            method="PutTaxSettings",
            fingerprint=fingerprint(request),
            answer_type=pb.PutTaxSettingsResponse,
            render=_render_settings,
            now=self._clock.now(),
        )
        return await self._exchange.put_settings(caller(context).tenant, settings, once)


def _render_upload_count(count: int) -> pb.PutUploadedRatesResponse:
    return pb.PutUploadedRatesResponse(rate_count=count)


def _render_settings(settings: SellerSettings) -> pb.PutTaxSettingsResponse:
    return pb.PutTaxSettingsResponse(settings=exchange.render_settings(settings))


def _render_put(put: PutRegistration) -> pb.PutRegistrationResponse:
    return pb.PutRegistrationResponse(registration=registrations.render_registration(*put))
